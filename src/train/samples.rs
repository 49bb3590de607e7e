//! Pictures that are drawn while training goes on, to see what the expert has learnt.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::diffusion::sampler;
use crate::error::{Error, Result};
use crate::formats::{image, png};
use crate::generate::{Conditions, Denoising, Guidance, decode, pipeline_config};
use crate::nn::{AutoencoderKl, UNet};
use crate::ops;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor, release_pool};

/// Denoising steps of a sample: enough to judge it by.
const STEPS: usize = 25;

/// What is drawn, always from the same noise.
pub struct Samples {
    /// The folder that pictures go to.
    pub dir: PathBuf,
    /// Prompt and negative prompt of each picture.
    pub prompts: Vec<(Conditions, Conditions)>,
    /// The model's `scheduler_config.json`.
    pub scheduler: Value,
    pub is_xl: bool,
    /// Loaded for the pictures and dropped again.
    pub vae_folder: PathBuf,
    /// The model's own VAE, where `vae_folder` is another.
    pub own_vae: PathBuf,
    pub dtype: DType,
    /// Pixels of a side.
    pub side: usize,
    pub seed: u64,
}

impl Samples {
    /// Writes `step-NNNNNNNN-I.png` for each prompt.
    ///
    /// # Errors
    /// [`Error::Io`] where a picture cannot be written; whatever is wrong with the VAE.
    pub fn draw(&self, unet: &UNet, step: u64) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        let config = pipeline_config(&self.scheduler, self.is_xl);
        let class = self.scheduler["_class_name"].as_str().unwrap_or_default();
        let vae = AutoencoderKl::load_standing_in(&self.vae_folder, &self.own_vae, self.dtype)?;
        vae.place(&unet.device())?;
        let side = self.side / vae.config.downscale();
        let shape = [1, side, side, vae.config.latent_channels];
        for (i, (positive, negative)) in self.prompts.iter().enumerate() {
            let noise = |stream, step| {
                let len = shape.iter().product();
                Tensor::new(random::normals(self.seed, stream, i as u64, step, len), &shape)
            };
            let sampler = sampler::from_config(class, &config, STEPS)?;
            let latents = ops::combine(&[(sampler.init_noise_sigma(), &noise(Stream::Latents, 0))])?;
            let mut denoising = Denoising {
                unet,
                sampler,
                guidance: Guidance { scale: if self.is_xl { 5.0 } else { 7.5 }, rescale: 0.0 },
                positive: positive.clone(),
                negative: negative.clone(),
                size: (self.side, self.side),
            };
            let fresh = |step: usize, _: &Tensor| Ok(noise(Stream::Sampler, step as u64));
            let latents = denoising.run(0, latents, fresh, |_, _| Ok(()))?;
            for picture in image::from_tensor(&decode(&vae, &latents)?)? {
                png::save(&self.path(step, i), &picture, None)?;
            }
        }
        drop(vae);
        // The steps ask for other sizes.
        release_pool();
        Ok(())
    }

    fn path(&self, step: u64, i: usize) -> PathBuf {
        Path::new(&self.dir).join(format!("step-{step:08}-{i}.png"))
    }
}
