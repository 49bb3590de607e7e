//! The loop around the step: accumulation, learning rate, records, states, the result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::checkpoint;
use super::config::{self, TrainConfig};
use super::examples::Examples;
use super::metrics::Metrics;
use super::parameters::FlatParameters;
use super::step::Objective;
use super::tensorboard::EventFile;
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use crate::error::{Error, Result};
use crate::lora::{Expert, Factors, Targets, attach, save};
use crate::nn::{AutoencoderKl, Layer, LoraBranch, Param};
use crate::ops::optimizer::AdamW;
use crate::pipeline::StableDiffusion;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};

/// What one optimizer step measured.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean over the micro-batches.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    pub lr: f64,
}

/// One LoRA expert in training.
pub struct Trainer {
    config: TrainConfig,
    model: StableDiffusion,
    examples: Examples,
    objective: Objective,
    flat: FlatParameters,
    branches: Vec<(String, LoraBranch)>,
    fingerprint: String,
    metrics: Metrics,
    events: EventFile,
}

impl Trainer {
    /// Loads the model, attaches fresh LoRA branches (A ~ N(0, 1/rank^2), B = 0, as peft's "gaussian"), opens the data,
    /// and with `resume` goes on from the newest state in the output folder.
    ///
    /// # Errors
    /// Whatever is wrong with model, data, targets or output folder, before anything is computed.
    pub fn new(config: TrainConfig, vocab: Option<&Path>, dtype: DType, resume: bool) -> Result<Self> {
        config.validate()?;
        let dir = Path::new(&config.model);
        std::fs::create_dir_all(&config.out).map_err(|e| Error::io(&config.out, e))?;
        let states = checkpoint::list(&config.out.join("state"))?;
        if !states.is_empty() && !resume {
            let message = "holds the state of an earlier run; go on with it by --resume, or choose another --out";
            return Err(Error::file(&config.out, message));
        }
        let mut model = StableDiffusion::load(dir, vocab, dtype)?;
        let vae = vae_folder(&config);
        if config.vae.is_some() {
            model.vae = AutoencoderKl::load(&vae, dtype)?;
        }
        model.unet.set_checkpointing(config.checkpointing);
        let side = config
            .resolution
            .unwrap_or((model.unet.config.sample_size * model.vae.config.downscale()) as u32);
        let examples = Examples::open(&config, &vae, side, dtype, &config.out.join("cache"))?;
        let objective = objective(&config, &model)?;
        let branches = attach_branches(&config, &mut model, dtype)?;
        let params: Vec<Param> = branches
            .iter()
            .flat_map(|(_, b)| [b.down.clone(), b.up.clone()])
            .collect();
        let mut flat = FlatParameters::new(params, dtype);
        let fingerprint = fingerprint(&config, dtype)?;
        if let Some(newest) = states.last() {
            checkpoint::load(newest, &mut flat, &fingerprint)?;
        }
        crate::formats::atomic::write_bytes(&config.out.join("config.toml"), config.to_toml()?.as_bytes())?;
        let resumed = (flat.step > 0).then_some(flat.step);
        let metrics = Metrics::resume(&config.out.join("metrics.jsonl"), flat.step)?;
        let events = EventFile::create(&config.out, resumed)?;
        Ok(Self {
            config,
            model,
            examples,
            objective,
            flat,
            branches,
            fingerprint,
            metrics,
            events,
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

    /// Trains to the last step, or until `stop` is set; then saves the state and says how to go on. Each step is
    /// reported.
    ///
    /// # Errors
    /// [`Error::Failed`] when the loss is no longer a number; [`Error::Interrupted`] after a stop.
    pub fn run(&mut self, stop: &AtomicBool, mut report: impl FnMut(&StepReport)) -> Result<()> {
        while self.flat.step < self.config.steps {
            let done = self.one_step()?;
            self.metrics.append(
                done.step,
                &[("loss", done.loss), ("lr", done.lr), ("grad_norm", done.grad_norm)],
            )?;
            let scalars = [
                ("train/loss", done.loss),
                ("train/lr", done.lr),
                ("train/grad_norm", done.grad_norm),
            ];
            self.events.scalars(done.step, &scalars)?;
            report(&done);
            let stopped = stop.load(Ordering::Relaxed);
            let last = done.step == self.config.steps;
            if last || stopped || done.step.is_multiple_of(self.config.save_every) {
                self.save()?;
            }
            if stopped && !last {
                let message = format!(
                    "stopped after step {}; the same command with --resume goes on",
                    done.step
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
            let batch = self.examples.batch(&self.model, number, train_timesteps)?;
            let computed = self
                .objective
                .compute(&self.model.unet, &batch, &leaves, 1.0 / accumulated as f64)?;
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
        let betas = (c.betas[0], c.betas[1]);
        let settings = AdamW {
            lr,
            betas,
            eps: c.eps,
            weight_decay: c.weight_decay,
        };
        let grad_norm = self.flat.update(settings, c.max_grad_norm);
        Ok(StepReport {
            step: self.flat.step,
            loss,
            grad_norm,
            lr,
        })
    }

    fn save(&mut self) -> Result<()> {
        self.metrics.flush()?;
        checkpoint::save(
            &self.config.out.join("state"),
            &self.flat,
            &self.fingerprint,
            self.config.keep,
        )?;
        self.save_result()
    }

    /// Writes `lora.safetensors`, in f32 from the master copy.
    fn save_result(&self) -> Result<()> {
        let mut expert = Expert::default();
        let mut offset = 0;
        let mut next = |param: &Param| {
            let shape = param.get().shape().to_vec();
            let len = shape.iter().product::<usize>();
            offset += len;
            Tensor::new(self.flat.master[offset - len..offset].to_vec(), &shape)
        };
        for (module, branch) in &self.branches {
            let (down, up) = (next(&branch.down), next(&branch.up));
            let alpha = branch.scale * down.shape()[0] as f64;
            expert.insert("unet", module, Factors::new(attach::in_files(&down), up, alpha)?);
        }
        let metadata = BTreeMap::from([("selma.step".to_string(), self.flat.step.to_string())]);
        save::diffusers(&self.config.out.join("lora.safetensors"), &expert, &metadata)
    }
}

/// The folder of the VAE: the model's, or the one that `--vae` names, itself or as the `vae` of a model.
fn vae_folder(config: &TrainConfig) -> PathBuf {
    match &config.vae {
        None => Path::new(&config.model).join("vae"),
        Some(other) if other.join("config.json").is_file() => other.clone(),
        Some(model) => model.join("vae"),
    }
}

fn objective(config: &TrainConfig, model: &StableDiffusion) -> Result<Objective> {
    let scheduler = &model.scheduler;
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

/// Fresh branches on every targeted module of the UNet, in the order of the network.
fn attach_branches(
    config: &TrainConfig,
    model: &mut StableDiffusion,
    dtype: DType,
) -> Result<Vec<(String, LoraBranch)>> {
    let targets = Targets::parse(&config.targets.join(","))?;
    let mut shapes = BTreeMap::new();
    model.unet.visit(&mut |layer| {
        shapes.insert(layer.name().to_owned(), attach::weight_shape(&layer));
    });
    let chosen = targets.select(&shapes)?;
    let (mut branches, mut failure) = (Vec::new(), None);
    model.unet.visit(&mut |mut layer: Layer<'_>| {
        let name = layer.name().to_owned();
        let Some(index) = chosen.iter().position(|module| *module == name) else {
            return;
        };
        let shape = attach::weight_shape(&layer);
        let mut down = shape.clone();
        down[0] = config.rank;
        let len = down.iter().product();
        let normals = random::normals(config.seed, Stream::Init, index as u64, 0, len);
        let values = normals.into_iter().map(|x| x / config.rank as f32).collect();
        let up = Tensor::zeros(&[shape[0], config.rank], DType::F32);
        let down = attach::in_files(&Tensor::new(values, &down));
        match attach::branch(&mut layer, &down, &up, config.scale(), dtype) {
            Ok([down, up]) => branches.push((
                name,
                LoraBranch {
                    down,
                    up,
                    scale: config.scale(),
                },
            )),
            Err(e) => failure = Some(e),
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(branches),
    }
}

/// Everything that decides the numbers of a run; how often it saves or where it writes does not.
fn fingerprint(config: &TrainConfig, dtype: DType) -> Result<String> {
    let mut c = config.clone();
    let defaults = TrainConfig::default();
    (c.out, c.keep, c.save_every) = (defaults.out, defaults.keep, defaults.save_every);
    (c.sample_every, c.sample_prompt) = (defaults.sample_every, defaults.sample_prompt);
    c.precision = dtype.name().into();
    c.to_toml()
}
