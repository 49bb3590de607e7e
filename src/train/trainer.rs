//! A prepared run to its expert: the loop around the step, records, states, the result.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::branches::Branches;
use super::checkpoint::{self, RunIdentity};
use super::config::TrainConfig;
use super::folder::OutputFolder;
use super::metrics::Metrics;
use super::parameters::FlatParameters;
use super::plan::Plans;
use super::preparation::Preparation;
use super::report::Report;
use super::samples::Samples;
use super::saved::SavedLoras;
use super::step::Objective;
use super::steps::Steps;
use super::tensorboard::EventFile;
use super::texts::TrainedTexts;
use super::validation::Validation;
use super::watcher::{StepReport, Watcher};
use crate::data::examples::Examples;
use crate::device::Device;
use crate::device::memory::format_bytes;
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::generate::Conditions;
use crate::lora::{Expert, attach, state};
use crate::nn::UNet;
use crate::tensor::DType;

/// One LoRA expert in training.
pub struct Trainer {
    config: TrainConfig,
    folder: OutputFolder,
    plans: Plans,
    unet: UNet,
    /// Where they are trained.
    texts: Option<TrainedTexts>,
    examples: Examples,
    objective: Objective,
    /// Those that are trained at.
    timesteps: Range<u32>,
    flat: FlatParameters,
    branches: Branches,
    run: RunIdentity,
    metrics: Metrics,
    events: EventFile,
    samples: Option<Samples>,
    validation: Option<Validation>,
    steps: Steps,
    saved: SavedLoras,
    page: Report,
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
        let mut texts = prepared.load_texts()?;
        let Preparation {
            config,
            folder,
            plans,
            examples,
            objective,
            run,
            state,
            start,
            samples,
            validation,
            dtype,
            ..
        } = prepared;
        unet.set_checkpointing(config.checkpointing);
        let encoders = texts.as_mut().map(|texts| &mut texts.encoders);
        let branches = Branches::attach(&config, start.as_ref(), &mut unet, encoders, dtype)?;
        let optimizer = |shapes: &[Vec<usize>]| config.optimizer(shapes);
        let mut flat = FlatParameters::grouped(branches.params(), &branches.lr_factors(), dtype, optimizer)?;
        if config.ema > 0.0 {
            flat.keep_average(config.ema)?;
        }
        match (state, start) {
            (Some(state), _) => state.restore(&mut flat)?,
            // The network may have rounded what it starts from.
            (None, Some(start)) => flat.set_values(branches.values(&start)?)?,
            (None, None) => {}
        }
        let saved = SavedLoras::new(&config, &examples)?;
        let timesteps = config.timesteps(objective.schedule.alphas_cumprod.len() as u32)?;
        atomic::write_bytes(&folder.join("config.toml"), config.to_toml()?.as_bytes())?;
        let steps = Steps::new(&unet.device(), config.grad_accum, config.schedule().rates(), &flat.factors())?;
        let resumed = (flat.step > 0).then_some(flat.step);
        let metrics = Metrics::resume(&folder.join("metrics.jsonl"), flat.step)?;
        let events = EventFile::create(&config.out, resumed)?;
        let validation = match validation {
            None => None,
            Some(held_out) => {
                let path = folder.join("validation.jsonl");
                Some(Validation::new(held_out, timesteps.clone(), &path, flat.step)?)
            }
        };
        let page = Report::new(&config, examples.len(), (flat.len(), branches.len()))?;
        Ok(Self {
            config,
            folder,
            plans,
            unet,
            texts,
            examples,
            objective,
            timesteps,
            flat,
            branches,
            run,
            metrics,
            events,
            samples,
            validation,
            steps,
            saved,
            page,
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

    /// Images in the dataset.
    pub fn samples(&self) -> usize {
        self.examples.len()
    }

    /// The memory that the run was expected to take.
    pub fn plans(&self) -> &Plans {
        &self.plans
    }

    /// Trains to the last step, or until the watcher says stop; then saves the state and says how to go on.
    ///
    /// # Errors
    /// [`Error::Failed`] when the loss is no longer a number; [`Error::Interrupted`] after a stop.
    pub fn run(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        self.run_to(self.config.steps, watcher)?;
        // Also when everything had been done before: the result is there after every successful run.
        self.save_result()?;
        self.page.write(self.flat.step)
    }

    /// Trains to step `end` and saves the state; does nothing where the run is there already, or further.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn run_to(&mut self, end: u64, watcher: &mut dyn Watcher) -> Result<()> {
        if self.flat.step == 0 && end > 0 {
            self.validate(watcher)?;
        }
        while self.flat.step < end {
            let before = self.flat.step;
            self.next_step(end, watcher).map_err(|error| self.stopped_by(error, before, watcher))?;
        }
        Ok(())
    }

    /// A step towards step `end`, with what is to be drawn and saved after it.
    fn next_step(&mut self, end: u64, watcher: &mut dyn Watcher) -> Result<()> {
        self.one_step()?;
        let step = self.flat.step;
        let last = step == end;
        let drawing = self.samples.is_some() && step.is_multiple_of(self.config.sample_every);
        let saving = last || step.is_multiple_of(self.config.save_every);
        self.report(drawing || saving, watcher)?;
        // Before the state is saved: a run that is killed while it draws comes back to this step.
        if drawing {
            self.draw()?;
        }
        let every = self.config.validate_every.unwrap_or(self.config.save_every);
        let validating = self.validation.is_some() && (last || step.is_multiple_of(every));
        if validating {
            self.report(true, watcher)?;
            self.validate(watcher)?;
        }
        let stopped = watcher.stopped();
        if saving || stopped {
            self.report(true, watcher)?;
            self.save()?;
        }
        if drawing || validating || saving || stopped {
            self.page.write(step)?;
        }
        if stopped && !last {
            let message = format!(
                "stopped after step {step} of {}, which is saved; the same command with --resume goes on",
                self.config.steps
            );
            return Err(Error::Interrupted(message));
        }
        Ok(())
    }

    /// Where a GPU stopped the work after step `before`: saves what there is, if it can, and says how to go on.
    fn stopped_by(&mut self, error: Error, before: u64, watcher: &mut dyn Watcher) -> Error {
        let from_the_last = "the same command with --resume goes on from the last saved state";
        match error {
            Error::OutOfMemory(why) => {
                // A step counts as soon as its update is queued: where that is what failed, nobody knows how much was done.
                let whole = self.flat.step == before && before > 0;
                let saved = whole && self.report(true, watcher).and_then(|()| self.save()).is_ok();
                let going_on = match saved {
                    _ if before == 0 => "no step was done yet".into(),
                    true => {
                        format!("the state after step {before} is saved, and the same command with --resume goes on")
                    }
                    false => from_the_last.into(),
                };
                let planned = self.plans.gpu.as_ref().map_or(0, |(_, plan)| plan.peak());
                Error::OutOfMemory(format!("{why}. This run was planned to take {}; {going_on}", format_bytes(planned)))
            }
            Error::Device(why) => Error::Device(format!("{why}; {from_the_last}")),
            other => other,
        }
    }

    fn one_step(&mut self) -> Result<()> {
        let accumulated = self.config.grad_accum as u64;
        let first = self.flat.step * accumulated;
        for number in first..first + accumulated {
            let factor = 1.0 / accumulated as f64;
            let Some(texts) = &self.texts else {
                let batch = self.examples.batch(number, self.timesteps.clone())?;
                self.steps.micro_batch(&self.objective, &self.unet, &mut self.flat, &batch, factor)?;
                continue;
            };
            let read = texts.input(&self.examples.captions(number))?;
            let pending = |_: &[String]| Ok(Conditions::pending(texts.encoders.is_xl()));
            let batch = self.examples.batch_with(number, self.timesteps.clone(), Some(&pending))?;
            let networks = (&self.unet, &texts.encoders);
            self.steps.micro_batch_with(&self.objective, networks, &mut self.flat, (&batch, read), factor)?;
        }
        self.steps.update(&mut self.flat, self.config.max_grad_norm)
    }

    /// Draws sample images with the LoRA that would be saved now.
    fn draw(&mut self) -> Result<()> {
        let Some(samples) = &mut self.samples else { return Ok(()) };
        self.flat.publish_average()?;
        let drawn = samples.draw(&self.unet, self.texts.as_ref(), self.flat.step, &mut self.events);
        self.flat.publish();
        drawn
    }

    /// Measures the loss of held-out images with the LoRA that would be saved now.
    fn validate(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        let Some(validation) = &mut self.validation else { return Ok(()) };
        let step = self.flat.step;
        self.flat.publish_average()?;
        let loss = validation.measure(&self.objective, &self.unet, self.texts.as_ref(), step);
        self.flat.publish();
        let loss = loss?;
        self.events.scalars(step, &[("validation/loss", loss)])?;
        self.page.validation(step, loss);
        watcher.note(&format!("validation loss {loss:.5} after {step} steps"));
        Ok(())
    }

    /// Records what steps have measured once there is enough of it, or where nothing may be left in a GPU's memory.
    fn report(&mut self, all: bool, watcher: &mut dyn Watcher) -> Result<()> {
        if !(all || self.steps.is_full()) {
            return Ok(());
        }
        for report in self.steps.reports()? {
            check(&report)?;
            self.record(&report)?;
            watcher.step(&report);
        }
        Ok(())
    }

    fn record(&mut self, done: &StepReport) -> Result<()> {
        self.page.step(done);
        let mut values = vec![("train/loss", done.loss), ("train/lr", done.lr), ("train/grad_norm", done.grad_norm)];
        values.extend(done.loss_scale.map(|scale| ("train/loss_scale", scale)));
        self.events.scalars(done.step, &values)?;
        values.iter_mut().for_each(|(name, _)| *name = name.trim_start_matches("train/"));
        self.metrics.append(done.step, &values)
    }

    fn save(&mut self) -> Result<()> {
        self.metrics.flush()?;
        // An interrupted run saves where an unbroken one does not: its LoRA is NAME.safetensors alone.
        if self.flat.step.is_multiple_of(self.config.save_every) {
            self.saved.write_step(self.expert()?, self.flat.step)?;
        }
        if let Some(distance) = self.flat.distance()? {
            self.events.scalars(self.flat.step, &[("train/d", distance)])?;
        }
        let layers = BTreeMap::from([(state::LAYERS.to_string(), state::describe(&self.branches.layers()))]);
        checkpoint::save_with(&self.folder.states(), &self.flat, &self.run, self.config.keep, &layers)?;
        self.save_result()
    }

    /// Writes `NAME.safetensors`.
    fn save_result(&self) -> Result<()> {
        self.save_lora(self.saved.result())
    }

    /// Writes the LoRA of the present step.
    ///
    /// # Errors
    /// As `SavedLoras::write`.
    pub fn save_lora(&self, path: &Path) -> Result<()> {
        self.saved.write(path, self.expert()?, self.flat.step)
    }

    /// The LoRA of the present step in f32: the average of the run where there is one, else the master copy.
    fn expert(&self) -> Result<Expert> {
        let values = self.flat.average()?.map_or_else(|| self.flat.master(), Ok)?;
        self.branches.expert(values.data())
    }
}

/// # Errors
/// [`Error::Failed`] where training has come apart.
fn check(report: &StepReport) -> Result<()> {
    // Gradients that leave the range of f16 fit with a lower scale, down to none at all.
    let lost = !report.grad_norm.is_finite() && report.loss_scale.is_none_or(|scale| scale <= 1.0);
    if report.loss.is_finite() && !lost {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "the loss or its gradient is no longer a number at step {} (learning rate {:e}); the state before it is kept: lower \
         --lr, raise --warmup, or look for broken weights in the model",
        report.step, report.lr
    )))
}
