//! Training examples: images and captions as the frozen encoders see them, and everything that is drawn for them.

mod ahead;
mod batch;

use std::collections::BTreeMap;
use std::path::Path;

pub use batch::EncodeTexts;

use crate::data::buckets::Fit;
use crate::data::dataset::Dataset;
use crate::data::encoders::Encoders;
use crate::data::images::{self, ImageFile};
use crate::data::kept_latents;
use crate::data::loader::{Item, Loader};
use crate::data::manifest::Manifest;
use crate::data::masks::Masks;
use crate::data::noise::NoiseSettings;
use crate::data::preprocess::{CropBox, Preprocess};
use crate::data::rng::{Purpose, Rng};
use crate::error::{Error, Result};
use crate::formats::content_hash;
use crate::tensor::DType;
use crate::train::config::TrainConfig;
use crate::train::provenance;
use crate::train::watcher::Watcher;

/// The dataset of a run behind its cache.
pub struct Examples {
    dataset: Dataset,
    images: Vec<ImageFile>,
    /// What becomes of each image, where there are buckets.
    fits: Vec<Option<Fit>>,
    preprocess: Preprocess,
    /// The sample of each visit of an epoch.
    visits: Vec<u32>,
    loader: Loader,
    config: TrainConfig,
    encoders: Encoders,
    /// What latents are multiplied by for the UNet.
    scaling_factor: f32,
    /// Bytes of one image's posterior.
    posterior_bytes: usize,
    dtype: DType,
    /// Bytes of latents that are encoded ahead even if random crops make them many.
    pub ahead_bytes: usize,
    ahead: bool,
    /// Whether the forms of captions that vary are encoded ahead.
    texts_ahead: bool,
    noise: NoiseSettings,
    masks: Option<Masks>,
    /// The latents beside the images are learnt from: the hash of all of them.
    latents: Option<String>,
}

impl Examples {
    /// `images` are those of `dataset`, with the bucket of each where there are buckets. `side` is the training resolution
    /// in pixels, `latent` the shape of one image's latents.
    ///
    /// # Errors
    /// As [`Loader::with_buckets`]; what keeps a run from latents that it is told to learn from.
    #[allow(clippy::too_many_arguments)]
    pub fn open(
        config: &TrainConfig,
        dataset: Dataset,
        (images, fits): (Vec<ImageFile>, Vec<Option<Fit>>),
        encoders: Encoders,
        side: u32,
        latent: [usize; 3],
        scaling_factor: f64,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        let latents = kept_latents::usable(config, &dataset, &images, &encoders.vae_files, side, latent, watcher)?;
        let masks = match &config.mask_data {
            Some(dir) => Some(Masks::open(dir, &dataset, &images)?),
            None => config.masked_loss.then_some(Masks::Alpha),
        };
        let visits = visits(&dataset);
        let mut buckets: BTreeMap<Option<(u32, u32)>, Vec<u32>> = BTreeMap::new();
        for (visit, &sample) in visits.iter().enumerate() {
            let bucket = fits[sample as usize].map(|fit| fit.bucket);
            buckets.entry(bucket).or_default().push(visit as u32);
        }
        Ok(Self {
            loader: Loader::with_buckets(buckets.into_values().collect(), config.batch_size, config.seed)?,
            visits,
            images,
            fits,
            dataset,
            preprocess: Preprocess { width: side, height: side, crop: config.crop, flip: config.flip },
            config: config.clone(),
            scaling_factor: scaling_factor as f32,
            posterior_bytes: 2 * size_of::<f32>() * latent.iter().product::<usize>(),
            dtype: encoders.dtype,
            encoders,
            ahead_bytes: ahead::AHEAD_BYTES,
            ahead: false,
            texts_ahead: true,
            noise: config.noise(),
            masks,
            latents,
        })
    }

    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hash of everything that is learnt from.
    pub fn content_hash(&self) -> String {
        let mut images = images::content_hash(&self.dataset, &self.images);
        if let Some(Masks::Files(_, masks)) = &self.masks {
            images = content_hash::of_bytes(format!("{images} masks {masks}").as_bytes());
        }
        match &self.latents {
            None => images,
            Some(latents) => content_hash::of_bytes(format!("{images} {latents}").as_bytes()),
        }
    }

    /// The list of everything that is learnt from.
    pub fn manifest(&self) -> Manifest {
        Manifest::new(&self.config.data, &self.dataset, &self.images)
    }

    /// What a LoRA in kohya's layout says of the run.
    pub fn provenance(&self) -> BTreeMap<String, String> {
        provenance::of_training(&self.config, &self.dataset, self.preprocess.width)
    }

    pub fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    /// Every caption of the dataset, each with its image.
    pub fn all_captions(&self) -> impl Iterator<Item = (&Path, &str)> {
        let samples = self.dataset.samples().iter();
        samples.flat_map(|sample| sample.captions.iter().map(|text| (sample.image.as_path(), text.as_str())))
    }

    /// The captions of micro-batch `number`, as [`Examples::batch`] has their states.
    pub fn captions(&mut self, number: u64) -> Vec<String> {
        let positions = self.positions(number);
        positions.iter().map(|(position, item)| self.caption(*position, item)).collect()
    }

    /// The items of a micro-batch, each with its position in the run.
    fn positions(&mut self, number: u64) -> Vec<(u64, Item)> {
        let items = self.loader.batch(number);
        let first = number * items.len() as u64;
        (first..).zip(items).collect()
    }

    fn sample(&self, item: &Item) -> usize {
        self.visits[item.index] as usize
    }

    /// The caption of the visit at `position` of the run.
    fn caption(&self, position: u64, item: &Item) -> String {
        let sample = &self.dataset.samples()[self.sample(item)];
        let seed = self.config.seed;
        let chosen = match sample.captions.len() {
            1 => 0,
            count => Rng::new(seed, Purpose::Caption, position, 0).below(count as u64) as usize,
        };
        self.dataset.subset(sample).variation.at(&sample.captions[chosen], seed, position)
    }

    fn crop_box(&self, item: &Item) -> Result<CropBox> {
        let sample = self.sample(item);
        let size = self.images[sample].size;
        if let Some(Fit { resized: (w, h), bucket: (width, height) }) = self.fits[sample] {
            let draw = [self.config.seed, item.index as u64, item.epoch];
            return Ok(self.preprocess.crop_within(size, (h, w), (height, width), draw));
        }
        self.preprocess
            .crop_box(size, self.config.seed, item.index as u64, item.epoch)
            .map_err(|e| Error::file(&self.dataset.samples()[sample].image, e.to_string()))
    }
}

/// The sample of each visit of an epoch. Regularisation images are visited as often as the others together, in turn, as in
/// kohya's scripts.
fn visits(dataset: &Dataset) -> Vec<u32> {
    let of = |is_reg: bool| {
        let samples =
            dataset.samples().iter().enumerate().filter(move |(_, sample)| dataset.subset(sample).is_reg == is_reg);
        samples.map(move |(index, sample)| (index as u32, dataset.subset(sample).repeats as usize))
    };
    let mut visits: Vec<u32> = of(false).flat_map(|(index, repeats)| std::iter::repeat_n(index, repeats)).collect();
    let (wanted, mut regular) = (visits.len(), Vec::new());
    let mut first = true;
    while regular.len() < wanted && of(true).next().is_some() {
        for (index, repeats) in of(true) {
            if regular.len() < wanted {
                regular.extend(std::iter::repeat_n(index, if first { repeats } else { 1 }));
            }
        }
        first = false;
    }
    visits.extend(regular);
    visits
}
