//! Images that are drawn while training goes on, to see what the expert has learnt.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::texts::TrainedTexts;
use crate::error::{Error, Result};
use crate::formats::{image, png};
use crate::generate::generation::{Batch, Networks};
use crate::generate::{Conditions, Generation, Guidance};
use crate::nn::{AutoencoderKl, UNet};
use crate::tensor::{DType, release_pool};

/// Denoising steps of a sample: enough to judge it by.
const STEPS: usize = 25;

/// What is drawn, always from the same noise.
pub struct Samples {
    /// The folder that images go to.
    pub dir: PathBuf,
    pub texts: Vec<String>,
    /// Prompt and negative prompt of each image, where the text encoders stay as they are.
    pub prompts: Vec<(Conditions, Conditions)>,
    /// The model's `scheduler_config.json`.
    pub scheduler: Value,
    pub is_xl: bool,
    /// Loaded for the images and dropped again.
    pub vae_folder: PathBuf,
    /// The model's own VAE, where `vae_folder` is another.
    pub own_vae: PathBuf,
    pub dtype: DType,
    /// Pixels of a side.
    pub side: usize,
    pub seed: u64,
}

impl Samples {
    /// Writes `step-NNNNNNNN-I.png` for each prompt, as `texts` encode it where those are trained.
    ///
    /// # Errors
    /// [`Error::Io`] where an image cannot be written; whatever is wrong with the VAE.
    pub fn draw(&self, unet: &UNet, texts: Option<&TrainedTexts>, step: u64) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        let vae = AutoencoderKl::load_standing_in(&self.vae_folder, &self.own_vae, self.dtype)?;
        vae.to(&unet.device())?;
        let generation = Generation {
            scheduler: None,
            steps: STEPS,
            guidance: Guidance { scale: Guidance::default_scale(self.is_xl), rescale: 0.0 },
            negative: None,
            size: (self.side, self.side),
            clip_skip: 0,
            seed: self.seed,
        };
        let encoded = match texts {
            Some(texts) => self.texts.iter().map(|prompt| texts.of_sample(prompt)).collect::<Result<_>>()?,
            None => self.prompts.clone(),
        };
        for (i, (positive, negative)) in encoded.into_iter().enumerate() {
            let batch = Batch {
                mixture: None,
                networks: Networks { unet, vae: &vae, scheduler: &self.scheduler, is_xl: self.is_xl },
                generation: &generation,
                noise: vec![(self.seed, i as u64)],
                positive,
                negative,
                start: None,
            };
            let (_, pixels) = batch.pixels(|| Ok(()))?;
            for image in image::from_tensor(&pixels)? {
                png::save(&self.path(step, i), &image, None)?;
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
