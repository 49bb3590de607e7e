//! The frozen encoders behind their cache on disk. Each is loaded when something is missing from the cache, and dropped
//! once everything that a run needs is there.

use std::path::{Path, PathBuf};

use crate::autograd::Tape;
use crate::data::dataset::Sample;
use crate::data::images::ImageFile;
use crate::data::latent_cache::{Key, LatentCache, Posterior, TextStates};
use crate::data::preprocess::CropBox;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::content_hash;
use crate::formats::image;
use crate::formats::model_dir::ModelDir;
use crate::generate::TextEncoders;
use crate::nn::AutoencoderKl;
use crate::tensor::{DType, Tensor, release_pool};

/// The VAE and the text encoders of a run.
pub struct Encoders {
    files: ModelDir,
    vae_folder: PathBuf,
    vocab: Option<PathBuf>,
    device: Device,
    pub dtype: DType,
    cache: LatentCache,
    /// What tells these encoders from others, for cache keys.
    pub vae_content: String,
    /// The VAE's files alone, as latents beside images name it.
    pub vae_files: String,
    pub text_content: String,
    /// Windows that every caption is encoded in: more than one for long captions.
    pub windows: usize,
    /// What is put behind transparent pixels; without it the colours that they hide are seen.
    pub background: Option<[u8; 3]>,
    vae: Option<AutoencoderKl>,
    text: Option<TextEncoders>,
}

impl Encoders {
    /// Encoders that compute on `device` in `dtype`. Nothing is loaded yet, but the encoders' files are read once for the hash of their content.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(
        files: &ModelDir,
        vae_folder: &Path,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        cache_dir: &Path,
    ) -> Result<Self> {
        let named = |hash: String| format!("{hash} {}", dtype.name());
        let vae_files = content_hash::of_folders(&[vae_folder.into()])?;
        let mut text = vec![files.text_encoder.clone(), files.tokenizer.clone()];
        text.extend(files.text_encoder_2.iter().chain(&files.tokenizer_2).cloned());
        text.extend(vocab.map(PathBuf::from));
        Ok(Self {
            files: files.clone(),
            vae_folder: vae_folder.into(),
            vocab: vocab.map(PathBuf::from),
            device: device.clone(),
            dtype,
            cache: LatentCache::open(cache_dir)?,
            vae_content: named(vae_files.clone()),
            vae_files,
            text_content: named(content_hash::of_folders(&text)?),
            windows: 1,
            background: None,
            vae: None,
            text: None,
        })
    }

    /// What the text encoders make of a caption; new ones are added to the cache where `keep` is set.
    ///
    /// # Errors
    /// Whatever is wrong with the cache or, where it lacks the caption, with the encoders.
    pub fn text(&mut self, caption: &str, keep: bool) -> Result<TextStates> {
        let key = match self.windows {
            1 => Key::text(caption, &self.text_content),
            windows => Key::text(caption, &format!("{} in {windows} windows", self.text_content)),
        };
        if let Some(states) = self.cache.text(&key)? {
            return Ok(states);
        }
        let encoders = match &self.text {
            Some(encoders) => encoders,
            None => {
                let loaded = TextEncoders::load(&self.files, self.vocab.as_deref(), self.dtype)?;
                loaded.to(&self.device)?;
                self.text.insert(loaded)
            }
        };
        let conditions = encoders.encode_long(&[caption.to_owned()], 0, self.windows)?;
        let one = |t: &Tensor| Ok(t.to_cpu()?.cast(DType::F32).with_shape(&t.shape()[1..]));
        let states =
            TextStates { context: one(&conditions.context)?, pooled: conditions.pooled.as_ref().map(one).transpose()? };
        if keep {
            self.cache.put_text(&key, &states)?;
        }
        Ok(states)
    }

    /// The VAE's posterior of an image at `crop_box`; new ones are added to the cache where `keep` is set.
    ///
    /// # Errors
    /// [`Error::File`] for an image that is damaged, or not the one that it was when the run began.
    pub fn posterior(
        &mut self,
        sample: &Sample,
        image: &ImageFile,
        crop_box: &CropBox,
        keep: bool,
    ) -> Result<Posterior> {
        let background = self.background.filter(|_| image.alpha);
        let transform = match background {
            None => crop_box.content(),
            Some([r, g, b]) => format!("{} over {r},{g},{b}", crop_box.content()),
        };
        let key = Key::posterior(image.digest.as_bytes(), &transform, &self.vae_content);
        if let Some(posterior) = self.cache.posterior(&key)? {
            return Ok(posterior);
        }
        let bytes = std::fs::read(&sample.image).map_err(|e| Error::io(&sample.image, e))?;
        if content_hash::of_bytes(&bytes) != image.digest {
            return Err(Error::file(&sample.image, "the image changed while the run was going"));
        }
        let pixels = crop_box.apply(&match background {
            None => image::decode(&bytes, &sample.image)?,
            Some(background) => image::decode_over(&bytes, &sample.image, background)?,
        });
        let vae = match &self.vae {
            Some(vae) => vae,
            None => {
                let loaded = AutoencoderKl::load(&self.vae_folder, self.dtype)?;
                loaded.to(&self.device)?;
                self.vae.insert(loaded)
            }
        };
        let shape = [&[1], pixels.shape()].concat();
        let (mean, logvar) = vae.encode(&Tape::off(), &pixels.with_shape(&shape).cast(self.dtype))?;
        let (mean, logvar) = (mean.to_cpu()?, logvar.to_cpu()?);
        let one = &mean.shape()[1..];
        let std = logvar.reals::<f32>().iter().map(|l| (0.5 * l).exp()).collect();
        let posterior = Posterior { mean: mean.cast(DType::F32).with_shape(one), std: Tensor::new(std, one) };
        if keep {
            self.cache.put_posterior(&key, &posterior)?;
        }
        Ok(posterior)
    }

    /// Drops the encoders from memory. What is missing later loads them again.
    pub fn forget(&mut self) {
        (self.vae, self.text) = (None, None);
        release_pool();
    }

    /// Cache entries that were found damaged and made again.
    pub fn damaged(&self) -> usize {
        self.cache.damaged()
    }
}
