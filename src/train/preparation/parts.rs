//! What a preparation is made of: objective, the LoRA to start from, the identity of the run, its samples.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::examples::Examples;
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use crate::error::{Error, Result};
use crate::formats::model_dir::{self, ModelDir};
use crate::formats::{content_hash, digest};
use crate::lora::{self, BaseModules, Expert};
use crate::nn::{UNetConfig, VaeConfig};
use crate::tensor::DType;
use crate::train::checkpoint::{RunIdentity, State};
use crate::train::config::TrainConfig;
use crate::train::lr_schedule::Shape;
use crate::train::samples::{Asked, SampledModel, Samples};
use crate::train::step::Objective;
use crate::train::watcher::Watcher;

/// The folder of the VAE: the model's, or the one that `--vae` names, itself or as the `vae` of a model.
pub(super) fn vae_folder(config: &TrainConfig, files: &ModelDir) -> Result<PathBuf> {
    Ok(match &config.vae {
        None => files.vae.clone(),
        Some(other) => model_dir::vae_folder(other)?,
    })
}

/// The LoRA that a run starts from.
///
/// # Errors
/// [`Error::File`] for a LoRA that does not fit the model, or has layers of networks that are not trained.
pub(super) fn start(config: &TrainConfig, file: &Path, modules: &BaseModules) -> Result<Expert> {
    let loaded = lora::load(file, Some(modules), false)?;
    match loaded.expert.components.keys().find(|component| *component != "unet" && !config.train_text_encoder) {
        None => Ok(loaded.expert),
        Some(other) => {
            let message =
                format!("has layers of {other}, and only those of the UNet are trained: give --train-text-encoder");
            Err(Error::file(file, message))
        }
    }
}

/// Says what changes where a run goes on to another number of steps.
///
/// # Errors
/// [`Error::Usage`] for fewer steps than are done.
pub(super) fn extend(state: &State, config: &TrainConfig, watcher: &mut dyn Watcher) -> Result<()> {
    if state.step > config.steps {
        let message = format!("steps is {}, but {} steps are done; give at least as many", config.steps, state.step);
        return Err(Error::Usage(message));
    }
    let before = TrainConfig::from_toml(&state.settings)?;
    if before.steps == config.steps {
        return Ok(());
    }
    let (old, new) = (before.schedule(), config.schedule());
    let mut note = format!("the run goes on to step {} instead of {}", config.steps, before.steps);
    if old.shape != Shape::Constant {
        note += &format!(
            "; its {} schedule spans all of them now: the next learning rate is {:.3e} and would have been {:.3e}",
            new.shape.name(),
            new.at(state.step),
            old.at(state.step)
        );
    }
    watcher.note(&note);
    Ok(())
}

/// Inpainting and other models see more than latents, and are not trained here.
pub(super) fn fits(files: &ModelDir, unet: &UNetConfig, vae: &VaeConfig) -> Result<()> {
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

pub(super) fn objective(config: &TrainConfig, scheduler: &Value) -> Result<Objective> {
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
    Ok(Objective { schedule, prediction, snr_gamma: config.snr_gamma, loss: config.loss() })
}

/// Everything that decides the numbers of a run. Where it lies, how often it saves and what it draws does not.
pub(super) fn identify(
    config: &TrainConfig,
    files: &ModelDir,
    scheduler: &Value,
    examples: &Examples,
    dtype: DType,
) -> Result<RunIdentity> {
    let deciding = TrainConfig { precision: dtype.name().into(), ..config.deciding() };
    let encoders = examples.encoders();
    let mut parts = vec![
        content_hash::of_folders(std::slice::from_ref(&files.unet))?,
        encoders.vae_content.clone(),
        encoders.text_content.clone(),
        scheduler.to_string(),
    ];
    if let Some(file) = &config.network_weights {
        parts.push(digest::file(&lora::file::resolve(file)?)?);
    }
    Ok(RunIdentity {
        settings: deciding.to_toml()?,
        model: content_hash::of_bytes(parts.join("\n").as_bytes()),
        data: examples.content_hash(),
    })
}

/// The texts that frozen text encoders read for sample images: prompts, negative prompts, and the empty one.
pub(super) fn sampled_texts(asked: &[Asked]) -> Vec<String> {
    let mut texts: Vec<String> = asked.iter().map(|asked| asked.request.prompt.clone()).collect();
    texts.extend(asked.iter().filter_map(|asked| asked.request.generation.negative.clone()));
    texts.extend((!asked.is_empty()).then(String::new));
    texts
}

pub(super) fn samples(
    config: &TrainConfig,
    asked: Vec<Asked>,
    zeros_for_empty: bool,
    model: SampledModel,
    examples: &mut Examples,
) -> Result<Samples> {
    let mut prompts = Vec::new();
    // Text encoders that are trained encode them anew each time.
    for Asked { request, .. } in asked.iter().filter(|_| !config.train_text_encoder) {
        let positive = examples.conditions(&request.prompt)?;
        let negative = match &request.generation.negative {
            None if model.is_xl && zeros_for_empty => positive.zeros()?,
            negative => examples.conditions(negative.as_deref().unwrap_or_default())?,
        };
        prompts.push((positive, negative));
    }
    Samples::new(config, asked, prompts, model)
}
