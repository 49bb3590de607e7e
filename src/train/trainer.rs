//! A prepared run to its expert: the loop around the step, records, states, the result.

use std::collections::BTreeMap;
use std::path::Path;

use super::branches::Branches;
use super::checkpoint::{self, RunIdentity};
use super::config::TrainConfig;
use super::examples::Examples;
use super::folder::OutputFolder;
use super::metrics::Metrics;
use super::parameters::FlatParameters;
use super::plan::Plan;
use super::preparation::Preparation;
use super::samples::Samples;
use super::step::Objective;
use super::tensorboard::EventFile;
use super::watcher::{StepReport, Watcher};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::lora::{attach, save};
use crate::nn::UNet;
use crate::ops::optimizer::AdamW;
use crate::tensor::DType;

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
    /// Prepares a run and loads its UNet.
    ///
    /// # Errors
    /// As [`Preparation::new`] and [`Trainer::start`].
    pub fn new(
        config: TrainConfig,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        resume: bool,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        let prepared = Preparation::new(config, vocab, device, dtype, resume, watcher)?;
        let unet = prepared.load_unet()?;
        Self::start(prepared, unet)
    }

    /// Begins the steps of a prepared run on its UNet, from the newest state where the run is resumed.
    ///
    /// # Errors
    /// Where targets or state do not fit the UNet, or the output folder cannot be written.
    pub fn start(prepared: Preparation, mut unet: UNet) -> Result<Self> {
        let Preparation {
            config,
            folder,
            plan,
            examples,
            objective,
            run,
            state,
            samples,
            dtype,
            ..
        } = prepared;
        unet.set_checkpointing(config.checkpointing);
        let branches = Branches::attach(&config, &mut unet, dtype)?;
        let mut flat = FlatParameters::new(branches.params(), dtype)?;
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

    /// The UNet without its branches, for the next run on the same model.
    pub fn into_unet(mut self) -> UNet {
        self.unet.visit(&mut attach::detach);
        self.unet
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
        self.run_to(self.config.steps, watcher)?;
        // Also when everything had been done before: the result is there after every successful run.
        self.save_result()
    }

    /// Trains to step `end` and saves the state; does nothing where the run is there already, or further.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn run_to(&mut self, end: u64, watcher: &mut dyn Watcher) -> Result<()> {
        while self.flat.step < end {
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
            let last = done.step == end;
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
        Ok(())
    }

    fn one_step(&mut self) -> Result<StepReport> {
        let accumulated = self.config.grad_accum as u64;
        let train_timesteps = self.objective.schedule.alphas_cumprod.len() as u32;
        let (leaves, scale) = (self.flat.leaves(), self.flat.loss_scale());
        let mut loss = 0.0;
        for i in 0..accumulated {
            let number = self.flat.step * accumulated + i;
            let batch = self.examples.batch(number, train_timesteps)?;
            let computed =
                self.objective
                    .compute(&self.unet, &batch, &leaves, 1.0 / accumulated as f64, scale.clone())?;
            loss += computed.loss / accumulated as f64;
            self.flat.accumulate(&computed.gradients)?;
        }
        let lr = self.config.schedule().at(self.flat.step);
        let c = &self.config;
        let settings = AdamW {
            lr,
            betas: (c.betas[0], c.betas[1]),
            eps: c.eps,
            weight_decay: c.weight_decay,
        };
        let progress = self.flat.progress()?;
        let loss_scale = progress.adapts().then_some(f64::from(progress.scale));
        let grad_norm = self.flat.update(settings, c.max_grad_norm)?;
        let step = self.flat.step;
        // Gradients that leave the range of f16 fit with a lower scale, down to none at all.
        let lost = !grad_norm.is_finite() && loss_scale.is_none_or(|scale| scale <= 1.0);
        if !loss.is_finite() || lost {
            return Err(Error::Failed(format!(
                "the loss or its gradient is no longer a number at step {step} (learning rate {lr:e}); the state before it \
                 is kept: lower --lr, raise --warmup, or look for broken weights in the model"
            )));
        }
        Ok(StepReport {
            step,
            loss,
            grad_norm,
            loss_scale,
            lr,
        })
    }

    fn record(&mut self, done: &StepReport) -> Result<()> {
        let mut values = vec![
            ("train/loss", done.loss),
            ("train/lr", done.lr),
            ("train/grad_norm", done.grad_norm),
        ];
        values.extend(done.loss_scale.map(|scale| ("train/loss_scale", scale)));
        self.events.scalars(done.step, &values)?;
        values
            .iter_mut()
            .for_each(|(name, _)| *name = name.trim_start_matches("train/"));
        self.metrics.append(done.step, &values)
    }

    fn save(&mut self) -> Result<()> {
        self.metrics.flush()?;
        checkpoint::save(&self.folder.states(), &self.flat, &self.run, self.config.keep)?;
        self.save_result()
    }

    /// Writes `lora.safetensors`.
    fn save_result(&self) -> Result<()> {
        self.save_lora(&self.folder.join("lora.safetensors"))
    }

    /// Writes the LoRA of the present step, in f32 from the master copy.
    ///
    /// # Errors
    /// As [`save::diffusers`].
    pub fn save_lora(&self, path: &Path) -> Result<()> {
        let metadata = BTreeMap::from([("selma.step".to_string(), self.flat.step.to_string())]);
        let expert = self.branches.expert(&self.flat.buffers()?.master)?;
        save::diffusers(path, &expert, &metadata)
    }
}
