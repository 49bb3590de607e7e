//! All of a run but its steps: settings, data and model are opened and checked, and the frozen encoders have done their
//! work. Little is kept in memory.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::{self, RunIdentity, State};
use super::config::TrainConfig;
use super::encoders::Encoders;
use super::examples::Examples;
use super::folder::OutputFolder;
use super::identity;
use super::plan::Plans;
use super::samples::Samples;
use super::step::Objective;
use super::watcher::Watcher;
use crate::data::dataset::Dataset;
use crate::device::Device;
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use crate::error::{Error, Result};
use crate::formats::model_dir::{self, Family, ModelDir};
use crate::nn::{Config, UNet, UNetConfig, VaeConfig};
use crate::tensor::{DType, release_pool};

/// A run that is ready for its first step, or for the one after the state that it goes on from.
pub struct Preparation {
    pub(super) config: TrainConfig,
    pub(super) folder: OutputFolder,
    pub(super) plans: Plans,
    pub(super) examples: Examples,
    pub(super) objective: Objective,
    pub(super) run: RunIdentity,
    pub(super) state: Option<State>,
    pub(super) samples: Option<Samples>,
    device: Device,
    pub(super) dtype: DType,
    unet_folder: PathBuf,
}

impl Preparation {
    /// Opens data and model, says what memory the run will take, encodes what it needs, and with `resume` finds the
    /// newest state in the output folder. The UNet is not loaded.
    ///
    /// # Errors
    /// Whatever is wrong with model, data, targets or output folder, or too little memory, before anything is computed;
    /// [`Error::Interrupted`] where the watcher says stop meanwhile.
    pub fn new(
        config: TrainConfig,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        resume: bool,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        Self::prepare(config, vocab, device, dtype, resume, true, watcher)
    }

    /// As [`Preparation::new`] with `resume`, of a run after another one of the same model: what memory it will take has been
    /// said.
    ///
    /// # Errors
    /// As [`Preparation::new`].
    pub fn another(
        config: TrainConfig,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        Self::prepare(config, vocab, device, dtype, true, false, watcher)
    }

    fn prepare(
        config: TrainConfig,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        resume: bool,
        announced: bool,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        config.validate()?;
        let files = ModelDir::open(Path::new(&config.model))?;
        files.notes.iter().for_each(|note| watcher.note(note));
        let vae_folder = vae_folder(&config, &files)?;
        let mut scheduler = Config::open(&files.scheduler.join("scheduler_config.json"))?.into_value();
        if let Some(name) = config.prediction.in_scheduler() {
            scheduler["prediction_type"] = name.into();
        }
        let objective = objective(&config, &scheduler)?;
        config.timesteps(objective.schedule.alphas_cumprod.len() as u32)?;
        let unet = UNetConfig::parse(&Config::open(&files.unet.join("config.json"))?)?;
        let vae = VaeConfig::standing_in(&vae_folder, &files.vae)?;
        fits(&files, &unet, &vae)?;
        let default = unet.sample_size * vae.downscale();
        let side = config.resolution.map_or(default, |side| side as usize);

        let plans = Plans::new(&config, &files, &vae_folder, (&unet, &vae), side, device, dtype)?;
        let dataset = Dataset::open(&config.data)?;
        // What is wrong with the command leaves no folder behind.
        let folder = OutputFolder::open(&config.out)?;
        let states = checkpoint::list(&folder.states())?;
        if !states.is_empty() && !resume {
            let message = "holds the state of an earlier run; go on with it by --resume, or choose another --out";
            return Err(Error::file(&config.out, message));
        }
        if announced {
            plans.lines()?.iter().for_each(|line| watcher.note(line));
        }
        plans.check(&config)?;
        let encoders = Encoders::new(&files, &vae_folder, vocab, device, dtype, &folder.join("cache"))?;
        let latent = side.div_ceil(vae.downscale());
        let latent = [latent, latent, vae.latent_channels];
        let factor = vae.scaling_factor;
        let mut examples = Examples::open(&config, dataset, encoders, side as u32, latent, factor, watcher)?;
        let list = folder.states().join("data.jsonl");
        match states.is_empty() {
            true => examples.manifest().write(&list)?,
            false => examples.manifest().check(&list)?,
        }
        let run = identify(&config, &files, &scheduler, &examples, dtype)?;
        let state = match states.last() {
            Some(newest) => Some(State::open(newest, &run)?),
            None => None,
        };
        let first = state.as_ref().map_or(0, |state| state.step);
        let accumulated = config.grad_accum as u64;
        let texts = if config.sample_every > 0 {
            [config.sample_prompt.clone(), vec![String::new()]].concat()
        } else {
            Vec::new()
        };
        examples.prepare(first * accumulated..config.steps * accumulated, &texts, watcher)?;
        let samples = match config.sample_every {
            0 => None,
            _ => Some(samples(&config, &files, scheduler, vae_folder, side, dtype, &mut examples)?),
        };

        Ok(Self {
            unet_folder: files.unet,
            config,
            folder,
            plans,
            examples,
            objective,
            run,
            state,
            samples,
            device: device.clone(),
            dtype,
        })
    }

    /// The network that is trained, on the device of the run. Runs of one model can share it, one after the other.
    ///
    /// # Errors
    /// As [`UNet::load`].
    pub fn load_unet(&self) -> Result<UNet> {
        let unet = UNet::load(&self.unet_folder, self.dtype)?;
        unet.place(&self.device)?;
        release_pool();
        Ok(unet)
    }
}

/// The folder of the VAE: the model's, or the one that `--vae` names, itself or as the `vae` of a model.
fn vae_folder(config: &TrainConfig, files: &ModelDir) -> Result<PathBuf> {
    Ok(match &config.vae {
        None => files.vae.clone(),
        Some(other) => model_dir::vae_folder(other)?,
    })
}

/// Inpainting and other models see more than latents, and are not trained here.
fn fits(files: &ModelDir, unet: &UNetConfig, vae: &VaeConfig) -> Result<()> {
    if unet.in_channels == vae.latent_channels && unet.out_channels == vae.latent_channels {
        return Ok(());
    }
    let message = format!(
        "`in_channels` {} and `out_channels` {} do not fit the VAE's {} latent channels; only text-to-image models can be \
         trained",
        unet.in_channels, unet.out_channels, vae.latent_channels
    );
    Err(Error::file(files.unet.join("config.json"), message))
}

fn objective(config: &TrainConfig, scheduler: &Value) -> Result<Objective> {
    let mut schedule = serde_json::Map::new();
    for key in
        ["num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"]
    {
        if !scheduler[key].is_null() {
            schedule.insert(key.into(), scheduler[key].clone());
        }
    }
    let schedule = NoiseSchedule::new(&SchedulerConfig::parse(Class::Ddpm, &schedule.into())?)?;
    let prediction = Prediction::parse(scheduler["prediction_type"].as_str().unwrap_or("epsilon"))?;
    Ok(Objective { schedule, prediction, snr_gamma: config.snr_gamma })
}

/// Everything that decides the numbers of a run. Where it lies, how often it saves and what it draws does not.
fn identify(
    config: &TrainConfig,
    files: &ModelDir,
    scheduler: &Value,
    examples: &Examples,
    dtype: DType,
) -> Result<RunIdentity> {
    let deciding = TrainConfig { precision: dtype.name().into(), ..config.deciding() };
    let encoders = examples.encoders();
    let parts = [
        identity::of_folders(std::slice::from_ref(&files.unet))?,
        encoders.vae_identity.clone(),
        encoders.text_identity.clone(),
        scheduler.to_string(),
    ];
    Ok(RunIdentity {
        settings: deciding.to_toml()?,
        model: identity::of_bytes(parts.join("\n").as_bytes()),
        data: examples.identity(),
    })
}

fn samples(
    config: &TrainConfig,
    files: &ModelDir,
    scheduler: Value,
    vae_folder: PathBuf,
    side: usize,
    dtype: DType,
    examples: &mut Examples,
) -> Result<Samples> {
    let is_xl = files.family == Family::StableDiffusionXl;
    let mut prompts = Vec::new();
    for prompt in &config.sample_prompt {
        let positive = examples.conditions(prompt)?;
        let negative = match is_xl && files.force_zeros_for_empty_prompt {
            true => positive.zeros()?,
            false => examples.conditions("")?,
        };
        prompts.push((positive, negative));
    }
    Ok(Samples {
        dir: config.out.join("samples"),
        prompts,
        scheduler,
        is_xl,
        vae_folder,
        own_vae: files.vae.clone(),
        dtype,
        side,
        seed: config.seed,
    })
}
