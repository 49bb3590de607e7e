//! The built-in model from nothing: first its VAE, on pictures of the world; then the text encoder, on what captions
//! claim; then text encoder and UNet together, on the latents of captioned pictures. Everything is drawn by index, so that
//! a resumed run gives the bytes of an unbroken one.

mod denoiser;
mod pairs;
mod stage;
#[cfg(all(test, feature = "simulator"))]
mod tests;
mod vae;
mod words;

use std::path::PathBuf;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::train::folder::OutputFolder;
use crate::train::watcher::Watcher;
use pairs::Pairs;

/// A pretraining run. What it does not say is fixed: the model that ships is one run's, and everybody can repeat it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pretraining {
    pub out: PathBuf,
    /// Where the networks are trained.
    pub device: Device,
    pub seed: u64,
    /// Optimizer steps of the VAE.
    pub vae_steps: u64,
    /// Captioned pictures that text encoder and UNet learn from.
    pub pairs: usize,
    /// Optimizer steps of the text encoder alone.
    pub text_steps: u64,
    /// Optimizer steps of text encoder and UNet after that.
    pub steps: u64,
    /// How often both are refined after those, from a lower rate.
    pub refinements: u64,
    /// Optimizer steps of each refinement.
    pub refining_steps: u64,
    /// Steps between saved states.
    pub save_every: u64,
}

impl Pretraining {
    /// The settings of the model that ships.
    pub const VAE_STEPS: u64 = 2000;
    pub const PAIRS: usize = 32_768;
    pub const TEXT_STEPS: u64 = 800;
    pub const STEPS: u64 = 13_000;
    pub const REFINEMENTS: u64 = 3;
    pub const REFINING_STEPS: u64 = 5000;

    /// Trains, and writes the model's folder; with `resume` goes on from what an earlier run left in it.
    ///
    /// # Errors
    /// [`Error::File`] for the folder of another run; [`Error::Failed`] when a loss is no longer a number;
    /// [`Error::Interrupted`] after a stop, with what was done saved.
    pub fn run(&self, resume: bool, watcher: &mut dyn Watcher) -> Result<()> {
        self.validate()?;
        let folder = OutputFolder::open(&self.out)?;
        if !resume && folder.states().join(vae::STAGE).is_dir() {
            let message = "holds the state of an earlier run; go on with it by --resume, or choose another --out";
            return Err(Error::file(&self.out, message));
        }
        let vae = vae::train(self, watcher)?;
        let pairs = Pairs::encode(self, &vae, watcher)?;
        denoiser::train(self, vae, &pairs, watcher)
    }

    fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("vae-steps", self.vae_steps),
            ("pairs", self.pairs as u64),
            ("text-steps", self.text_steps),
            ("steps", self.steps),
            ("refinements", self.refinements),
            ("refining-steps", self.refining_steps),
            ("save-every", self.save_every),
        ] {
            if value == 0 || value > u64::from(u32::MAX) {
                let message = format!("--{name} {value}: expected 1 to {}", u32::MAX);
                return Err(Error::Usage(message));
            }
        }
        Ok(())
    }

    /// The folder of a stage's states.
    fn states(&self, stage: &str) -> PathBuf {
        self.out.join("state").join(stage)
    }
}
