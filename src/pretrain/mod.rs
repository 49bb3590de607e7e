//! The built-in model from nothing: first its VAE, on images of the world; then the text encoder, on what captions
//! claim; then text encoder and UNet together, on the latents of captioned images; in the end the same with careless
//! captions. Everything is drawn by index, so that a resumed run gives the bytes of an unbroken one.

mod denoiser;
mod latents;
mod stage;
#[cfg(all(test, feature = "simulator"))]
mod tests;
mod text_probe;
mod vae;

use std::path::{Path, PathBuf};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::content_hash;
use crate::formats::model_dir::ModelDir;
use crate::generate::StableDiffusion;
use crate::nn::Config;
use crate::shapes::careless::Careless;
use crate::shapes::model::{text_config, unet_config, vocabulary_size};
use crate::tensor::DType;
use crate::train::folder::OutputFolder;
use crate::train::watcher::Watcher;
use latents::Pairs;

/// A pretraining run. What it does not say is fixed: the model that ships is one run's, and everybody can repeat it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pretraining {
    pub out: PathBuf,
    /// A finished model of this kind to go on from: only the stage of careless captions is run. `None`: from nothing.
    pub from: Option<PathBuf>,
    /// Where the networks are trained.
    pub device: Device,
    pub seed: u64,
    /// Optimizer steps of the VAE.
    pub vae_steps: u64,
    /// Captioned images that text encoder and UNet learn from.
    pub pairs: usize,
    /// Optimizer steps of the text encoder alone.
    pub text_steps: u64,
    /// Optimizer steps of text encoder and UNet after that.
    pub steps: u64,
    /// How often both are refined after those, from a lower rate.
    pub refinements: u64,
    /// Optimizer steps of each refinement.
    pub refining_steps: u64,
    /// How the last stage's captions err.
    pub careless: Careless,
    /// Optimizer steps of the last stage; 0: the model is one of exact captions.
    pub careless_steps: u64,
    /// The highest learning rate of the last stage.
    pub careless_lr: f64,
    /// Steps between saved states.
    pub save_every: u64,
}

impl Pretraining {
    /// The defaults.
    pub const VAE_STEPS: u64 = 2000;
    pub const PAIRS: usize = 32_768;
    pub const TEXT_STEPS: u64 = 800;
    pub const STEPS: u64 = 13_000;
    pub const REFINEMENTS: u64 = 3;
    pub const REFINING_STEPS: u64 = 5000;
    pub const CARELESS: &str = "counts=0.4,sizes=0.4,swaps=0.4,colours=0.4,any-colours=0.25,backgrounds=0.4";
    pub const CARELESS_STEPS: u64 = 4200;
    pub const CARELESS_LR: f64 = 3e-4;

    /// Trains, and writes the model's folder; with `resume` goes on from what an earlier run left in it.
    ///
    /// # Errors
    /// [`Error::File`] for the folder of another run; [`Error::Failed`] when a loss is no longer a number;
    /// [`Error::Interrupted`] after a stop, with what was done saved.
    pub fn run(&self, resume: bool, watcher: &mut dyn Watcher) -> Result<()> {
        self.validate()?;
        let folder = OutputFolder::open(&self.out)?;
        let begun = [vae::STAGE, denoiser::CARELESS].map(|stage| folder.states().join(stage));
        if !resume && begun.iter().any(|states| states.is_dir()) {
            let message = "holds the state of an earlier run; go on with it by --resume, or choose another --out";
            return Err(Error::file(&self.out, message));
        }
        if let Some(from) = &self.from {
            return self.go_on(from, watcher);
        }
        let vae = vae::train(self, watcher)?;
        let pairs = Pairs::encode(self, &vae, None, watcher)?;
        denoiser::train(self, vae, &pairs, watcher)
    }

    fn go_on(&self, from: &Path, watcher: &mut dyn Watcher) -> Result<()> {
        let files = ModelDir::open(from)?;
        for (folder, expected) in [(&files.unet, unet_config()), (&files.text_encoder, text_config(vocabulary_size()))]
        {
            let config = folder.join("config.json");
            if Config::open(&config)?.into_value() != expected {
                let message = "is not the configuration of the built-in model; --from takes a model that selma pretrain shapes made";
                return Err(Error::file(&config, message));
            }
        }
        let model = StableDiffusion::load(from, None, DType::F32)?;
        model.to(&self.device)?;
        let pairs = Pairs::encode(self, &model.vae, Some(model.vae.config.scaling_factor), watcher)?;
        let hash = content_hash::of_folders(&[files.unet, files.text_encoder])?;
        denoiser::go_on(self, model, hash, &pairs, watcher)
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
        if self.from.is_some() && self.careless_steps == 0 {
            return Err(Error::Usage("--careless-steps 0 with --from leaves nothing to do: expected 1 or more".into()));
        }
        if !(self.careless_lr > 0.0 && self.careless_lr.is_finite()) {
            let message = format!("--careless-lr {}: expected a number above 0", self.careless_lr);
            return Err(Error::Usage(message));
        }
        Ok(())
    }

    /// The folder of a stage's states.
    fn states(&self, stage: &str) -> PathBuf {
        self.out.join("state").join(stage)
    }
}
