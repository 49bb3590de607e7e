//! A run from its settings to the expert: preparation, the loop around the step, records, states, the result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::branches::Branches;
use super::checkpoint::{self, RunIdentity, State};
use super::config::{self, TrainConfig};
use super::encoders::Encoders;
use super::examples::Examples;
use super::folder::OutputFolder;
use super::metrics::Metrics;
use super::parameters::FlatParameters;
use super::plan::Plan;
use super::samples::Samples;
use super::step::Objective;
use super::tensorboard::EventFile;
use super::watcher::{StepReport, Watcher};
use super::{identity, memory};
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::formats::model_dir::{Family, ModelDir};
use crate::lora::save;
use crate::nn::{Config, UNet, UNetConfig, VaeConfig};
use crate::ops::optimizer::AdamW;
use crate::tensor::{DType, release_pool};

/// One LoRA expert in training.
pub struct Trainer {
    config: TrainConfig,
    folder: OutputFolder,
    plan: Plan,
    unet: UNet,
    examples: Examples,
    objective: Objective,
    flat: FlatParameters,
    branches: Branches,
    run: RunIdentity,
    metrics: Metrics,
    events: EventFile,
    samples: Option<Samples>,
}

impl Trainer {
    /// Opens data and model, says what memory the run will take, encodes what it needs, and with `resume` goes on from
    /// the newest state in the output folder.
    ///
    /// # Errors
    /// Whatever is wrong with model, data, targets or output folder, or too little memory, before anything is computed;
    /// [`Error::Interrupted`] where the watcher says stop meanwhile.
    pub fn new(
        config: TrainConfig,
        vocab: Option<&Path>,
        dtype: DType,
        resume: bool,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        config.validate()?;
        let folder = OutputFolder::open(&config.out)?;
        let states = checkpoint::list(&folder.states())?;
        if !states.is_empty() && !resume {
            let message = "holds the state of an earlier run; go on with it by --resume, or choose another --out";
            return Err(Error::file(&config.out, message));
        }
        let files = ModelDir::open(Path::new(&config.model))?;
        let vae_folder = vae_folder(&config, &files);
        let scheduler = Config::open(&files.scheduler.join("scheduler_config.json"))?.into_value();
        let objective = objective(&config, &scheduler)?;
        let unet = UNetConfig::parse(&Config::open(&files.unet.join("config.json"))?)?;
        let vae = VaeConfig::parse(&Config::open(&vae_folder.join("config.json"))?)?;
        fits(&files, &unet, &vae)?;
        let default = unet.sample_size * vae.downscale();
        let side = config.resolution.map_or(default, |side| side as usize);

        let plan = Plan::new(&config, &files, &vae_folder, &unet, &vae, side, dtype)?;
        announce(&plan, &config, watcher)?;
        let encoders = Encoders::new(&files, &vae_folder, vocab, dtype, &folder.join("cache"))?;
        let latent = side.div_ceil(vae.downscale());
        let latent = [latent, latent, vae.latent_channels];
        let factor = vae.scaling_factor;
        let mut examples = Examples::open(&config, encoders, side as u32, latent, factor, dtype, watcher)?;
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
            _ => Some(samples(
                &config,
                &files,
                scheduler,
                vae_folder,
                side,
                dtype,
                &mut examples,
            )?),
        };

        let mut unet = UNet::load(&files.unet, dtype)?;
        release_pool();
        unet.set_checkpointing(config.checkpointing);
        let branches = Branches::attach(&config, &mut unet, dtype)?;
        let mut flat = FlatParameters::new(branches.params(), dtype);
        if let Some(state) = state {
            state.restore(&mut flat)?;
        }
        atomic::write_bytes(&folder.join("config.toml"), config.to_toml()?.as_bytes())?;
        let resumed = (flat.step > 0).then_some(flat.step);
        let metrics = Metrics::resume(&folder.join("metrics.jsonl"), flat.step)?;
        let events = EventFile::create(&config.out, resumed)?;
        Ok(Self {
            config,
            folder,
            plan,
            unet,
            examples,
            objective,
            flat,
            branches,
            run,
            metrics,
            events,
            samples,
        })
    }

    /// Steps already done.
    pub fn step(&self) -> u64 {
        self.flat.step
    }

    /// Numbers that are trained, and the modules that they belong to.
    pub fn trained(&self) -> (usize, usize) {
        (self.flat.len(), self.branches.len())
    }

    /// Pictures in the dataset.
    pub fn samples(&self) -> usize {
        self.examples.len()
    }

    /// The memory that the run was expected to take.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Trains to the last step, or until the watcher says stop; then saves the state and says how to go on.
    ///
    /// # Errors
    /// [`Error::Failed`] when the loss is no longer a number; [`Error::Interrupted`] after a stop.
    pub fn run(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        while self.flat.step < self.config.steps {
            let done = self.one_step()?;
            self.record(&done)?;
            watcher.step(&done);
            // Before the state is saved: a run that is killed while it draws comes back to this step.
            if let Some(samples) = &self.samples
                && done.step.is_multiple_of(self.config.sample_every)
            {
                samples.draw(&self.unet, done.step)?;
            }
            let stopped = watcher.stopped();
            let last = done.step == self.config.steps;
            if last || stopped || done.step.is_multiple_of(self.config.save_every) {
                self.save()?;
            }
            if stopped && !last {
                let message = format!(
                    "stopped after step {} of {}, which is saved; the same command with --resume goes on",
                    done.step, self.config.steps
                );
                return Err(Error::Interrupted(message));
            }
        }
        // Also when everything had been done before: the result is there after every successful run.
        self.save_result()
    }

    fn one_step(&mut self) -> Result<StepReport> {
        let accumulated = self.config.grad_accum as u64;
        let train_timesteps = self.objective.schedule.alphas_cumprod.len() as u32;
        let leaves = self.flat.leaves();
        let mut loss = 0.0;
        for i in 0..accumulated {
            let number = self.flat.step * accumulated + i;
            let batch = self.examples.batch(number, train_timesteps)?;
            let computed = self
                .objective
                .compute(&self.unet, &batch, &leaves, 1.0 / accumulated as f64)?;
            loss += computed.loss / accumulated as f64;
            self.flat.accumulate(&computed.gradients);
        }
        let lr = self.config.schedule().at(self.flat.step);
        if !loss.is_finite() || !self.flat.gradient_norm().is_finite() {
            return Err(Error::Failed(format!(
                "the loss or its gradient is no longer a number at step {} (learning rate {lr:e}); the state before it is \
                 kept: lower --lr, raise --warmup, or look for broken weights in the model",
                self.flat.step + 1
            )));
        }
        let c = &self.config;
        let settings = AdamW {
            lr,
            betas: (c.betas[0], c.betas[1]),
            eps: c.eps,
            weight_decay: c.weight_decay,
        };
        let grad_norm = self.flat.update(settings, c.max_grad_norm);
        let step = self.flat.step;
        Ok(StepReport {
            step,
            loss,
            grad_norm,
            lr,
        })
    }

    fn record(&mut self, done: &StepReport) -> Result<()> {
        let values = [("loss", done.loss), ("lr", done.lr), ("grad_norm", done.grad_norm)];
        self.metrics.append(done.step, &values)?;
        let scalars = [
            ("train/loss", done.loss),
            ("train/lr", done.lr),
            ("train/grad_norm", done.grad_norm),
        ];
        self.events.scalars(done.step, &scalars)
    }

    fn save(&mut self) -> Result<()> {
        self.metrics.flush()?;
        checkpoint::save(&self.folder.states(), &self.flat, &self.run, self.config.keep)?;
        self.save_result()
    }

    /// Writes `lora.safetensors`, in f32 from the master copy.
    fn save_result(&self) -> Result<()> {
        let metadata = BTreeMap::from([("selma.step".to_string(), self.flat.step.to_string())]);
        let expert = self.branches.expert(&self.flat.master)?;
        save::diffusers(&self.folder.join("lora.safetensors"), &expert, &metadata)
    }
}

/// The folder of the VAE: the model's, or the one that `--vae` names, itself or as the `vae` of a model.
fn vae_folder(config: &TrainConfig, files: &ModelDir) -> PathBuf {
    match &config.vae {
        None => files.vae.clone(),
        Some(other) if other.join("config.json").is_file() => other.clone(),
        Some(model) => model.join("vae"),
    }
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

/// Says what memory the run will take, and refuses one that cannot fit.
fn announce(plan: &Plan, config: &TrainConfig, watcher: &mut dyn Watcher) -> Result<()> {
    let available = memory::available();
    let free = available.map_or(String::new(), |bytes| format!(", {} are free", memory::human(bytes)));
    watcher.note(&format!("planned memory: {}{free}", memory::human(plan.peak())));
    plan.lines().iter().for_each(|line| watcher.note(line));
    available.map_or(Ok(()), |bytes| plan.check(bytes, config))
}

fn objective(config: &TrainConfig, scheduler: &Value) -> Result<Objective> {
    let mut schedule = serde_json::Map::new();
    for key in [
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
    ] {
        if !scheduler[key].is_null() {
            schedule.insert(key.into(), scheduler[key].clone());
        }
    }
    let schedule = NoiseSchedule::new(&SchedulerConfig::parse(Class::Ddpm, &schedule.into())?)?;
    let prediction = match config.prediction {
        config::Prediction::Auto => Prediction::parse(scheduler["prediction_type"].as_str().unwrap_or("epsilon"))?,
        config::Prediction::Epsilon => Prediction::Epsilon,
        config::Prediction::VPrediction => Prediction::V,
    };
    Ok(Objective {
        schedule,
        prediction,
        snr_gamma: config.snr_gamma,
    })
}

/// Everything that decides the numbers of a run. Where it lies, how often it saves and what it draws does not.
fn identify(
    config: &TrainConfig,
    files: &ModelDir,
    scheduler: &Value,
    examples: &Examples,
    dtype: DType,
) -> Result<RunIdentity> {
    let defaults = TrainConfig::default();
    let mut c = config.clone();
    (c.model, c.vae, c.data, c.out) = (defaults.model, defaults.vae, defaults.data, defaults.out);
    (c.keep, c.save_every) = (defaults.keep, defaults.save_every);
    (c.sample_every, c.sample_prompt) = (defaults.sample_every, defaults.sample_prompt);
    c.precision = dtype.name().into();
    let encoders = examples.encoders();
    let parts = [
        identity::of_folders(std::slice::from_ref(&files.unet))?,
        encoders.vae_identity.clone(),
        encoders.text_identity.clone(),
        scheduler.to_string(),
    ];
    Ok(RunIdentity {
        settings: c.to_toml()?,
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
            true => positive.zeros(),
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
        dtype,
        side,
        seed: config.seed,
    })
}
