//! What networks see in images: features, embeddings, distances.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::autograd::Tape;
use crate::cli::Common;
use crate::cli::eval::precision;
use crate::cli::progress::Progress;
use crate::error::{Error, Result};
use crate::judges::cache::{Key, ValueCache};
use crate::judges::clip::{self, Clip};
use crate::judges::extract::{Extraction, hashes};
use crate::judges::inception::{self, Extractor};
use crate::judges::lpips;
use crate::judges::preprocess::{DecodedImage, INCEPTION_SIZE, Recipe};
use crate::metrics::Features;
use crate::tensor::{DType, Tensor};

/// How images come to Inception's size, by the program that has the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FidRule {
    #[value(alias = "fid_pytorch")]
    PytorchFid,
    #[value(alias = "fid_clean")]
    CleanFid,
    #[value(alias = "fid_tf1")]
    TorchFidelity,
}

impl FidRule {
    pub fn recipe(self) -> Recipe {
        match self {
            FidRule::PytorchFid => Recipe::FidPytorch,
            FidRule::CleanFid => Recipe::FidClean,
            FidRule::TorchFidelity => Recipe::FidTf1,
        }
    }
}

#[derive(clap::Args)]
pub(super) struct Networks {
    /// FID's Inception network, for FID and KID of folders: a folder, a file, or an id on the Hugging Face hub
    #[arg(long, value_name = "MODEL")]
    pub inception: Option<String>,
    /// Which program's resizing FID and KID follow; several with commas. Values of different rules do not compare
    #[arg(long, value_enum, value_delimiter = ',', default_value = "pytorch-fid")]
    pub fid_rule: Vec<FidRule>,
    /// A CLIP model, for diversity, CLIP-I of pairs, and CMMD (named so for ViT-L/14 at 336 pixels alone)
    #[arg(long, value_name = "MODEL")]
    pub clip: Option<String>,
    /// LPIPS' AlexNet with its weights, for the distance of pairs and diversity within prompts
    #[arg(long, value_name = "MODEL")]
    pub lpips: Option<String>,
    /// Images that a network is given at a time
    #[arg(long, default_value_t = 16)]
    pub batch_size: usize,
}

/// The networks that were asked for, and what they computed so far.
pub(super) struct Loaded<'a> {
    pub inception: Option<Extractor>,
    pub clip: Option<Clip>,
    pub lpips: Option<lpips::Metric>,
    batch: usize,
    dtype: DType,
    cache: ValueCache,
    alpha: AtomicBool,
    common: &'a Common,
}

impl Networks {
    pub fn any(&self) -> bool {
        self.inception.is_some() || self.clip.is_some() || self.lpips.is_some()
    }

    /// `cache` is the file in which values are kept.
    ///
    /// # Errors
    /// Those of loading; [`Error::Usage`] for a batch of none; as [`ValueCache::open`].
    pub fn load<'a>(&self, cache: &Path, common: &'a Common) -> Result<Loaded<'a>> {
        if self.batch_size == 0 || self.batch_size > 4096 {
            return Err(Error::Usage(format!("--batch-size {}: expected 1 to 4096", self.batch_size)));
        }
        let (device, dtype) = (common.device()?, precision(common)?);
        let place = |given: &Option<String>| given.as_deref().map(|given| common.judge(given)).transpose();
        Ok(Loaded {
            inception: place(&self.inception)?.map(|path| inception::load(&path, &device, dtype)).transpose()?,
            clip: place(&self.clip)?.map(|path| Clip::load(&path, &device, dtype)).transpose()?,
            lpips: place(&self.lpips)?.map(|path| lpips::load(&path, &device, dtype)).transpose()?,
            batch: self.batch_size,
            dtype,
            cache: ValueCache::open(cache)?,
            alpha: AtomicBool::new(false),
            common,
        })
    }
}

impl Loaded<'_> {
    /// Inception's 2048 features of each image.
    ///
    /// # Errors
    /// [`Error::File`] naming an image that cannot be read; what the device says.
    pub fn inception_features(&self, network: &Extractor, recipe: Recipe, images: &[PathBuf]) -> Result<Features> {
        self.features("inception", recipe, INCEPTION_SIZE, &network.hash, images, &|pixels| {
            clip::rows(&network.model.forward(&Tape::off(), pixels)?.features)
        })
    }

    /// CLIP's projected embedding of each image.
    ///
    /// # Errors
    /// As [`Loaded::inception_features`].
    pub fn embeddings(&self, clip: &Clip, recipe: Recipe, images: &[PathBuf]) -> Result<Features> {
        // The name under which `selma eval` keeps them.
        self.features("image", recipe, clip.model.image_size(), &clip.hash, images, &|pixels| clip.image_embeds(pixels))
    }

    /// How different images look from others, each from the one at its place.
    ///
    /// # Errors
    /// [`Error::File`] naming an image that cannot be read, or is too small.
    pub fn distances(&self, metric: &lpips::Metric, pairs: &[[&Path; 2]]) -> Result<Vec<f64>> {
        let mut files: Vec<&Path> = pairs.concat();
        files.sort();
        files.dedup();
        let hash_of: std::collections::HashMap<&Path, String> = files.iter().copied().zip(hashes(&files)?).collect();
        let mut progress = self.progress("pairs", pairs.len(), "lpips");
        let mut distances = Vec::new();
        for pair in pairs {
            let [first, second] = pair.map(|path| hash_of[path].as_str());
            let key = Key::of(&["lpips", first, second, &metric.hash, self.dtype.name()]);
            if self.cache.get(&key).is_none() {
                let distance =
                    lpips::distance(&metric.model, &DecodedImage::read(pair[0])?, &DecodedImage::read(pair[1])?);
                let distance = distance.map_err(|why| Error::file(pair[1], why.to_string()))?;
                self.cache.put(&[(key.clone(), vec![distance])])?;
            }
            // As it is kept, so that a command given again says the same.
            distances.extend(self.cache.get(&key).into_iter().flatten());
            progress.add(1);
        }
        progress.finish();
        Ok(distances)
    }

    /// Whether an image that was looked at had an alpha channel.
    pub fn saw_alpha(&self) -> bool {
        self.alpha.load(Ordering::Relaxed)
    }

    fn features(
        &self,
        what: &str,
        recipe: Recipe,
        size: usize,
        hash: &str,
        images: &[PathBuf],
        network: &dyn Fn(&Tensor) -> Result<Vec<Vec<f64>>>,
    ) -> Result<Features> {
        let paths: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
        let Self { batch, dtype, cache, alpha, .. } = self;
        let extraction = Extraction { recipe, size, hash, dtype: *dtype, batch: *batch, cache, alpha };
        let mut progress = self.progress("images", paths.len(), what);
        let mut begun = false;
        let rows = extraction.rows(
            what,
            &paths,
            &hashes(&paths)?,
            &mut |done| {
                // What was known before does not count for the rate.
                if std::mem::replace(&mut begun, true) {
                    progress.set(done as u64);
                } else {
                    progress.start_at(done as u64);
                }
                Ok(())
            },
            network,
        );
        progress.finish();
        let rows = rows?;
        let width = rows.first().map_or(0, Vec::len);
        Features::new(&Tensor::new(rows.concat(), &[rows.len(), width]))
    }

    fn progress(&self, what: &'static str, total: usize, network: &str) -> Progress {
        let mut progress = Progress::new(self.common, what, total);
        progress.message(network.into());
        progress
    }
}
