//! How the steps of a run are done: what differs from step to step is put into the device's memory first, so that a GPU
//! can replay the work of a micro-batch and that of an update. What steps measure stays there until there is enough of it to
//! be worth waiting for.

use std::time::{Duration, Instant};

use super::parameters::FlatParameters;
use super::step::Objective;
use super::watcher::StepReport;
use crate::autograd::Tape;
use crate::data::batch::MicroBatch;
use crate::device::Device;
use crate::device::gpu::graph::CachedGraph;
use crate::error::Result;
use crate::generate::{TextEncoders, TextInput};
use crate::nn::UNet;
use crate::tensor::{Tensor, Upload};

/// Steps whose losses are kept on an asynchronous device at most.
const STEPS: usize = 16;
/// They are read earlier where steps take long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Numbers of [`crate::ops::optimizer::Progress::values`].
const PROGRESS: usize = 3;

/// The steps of one run, and what they have measured.
pub struct Steps {
    device: Device,
    inputs: Upload,
    micro_batch: CachedGraph,
    update: CachedGraph,
    /// Of the last micro-batch, `[1]`; here and below in the device's [number dtype](Device::number_dtype).
    loss: Tensor,
    norm: Tensor,
    /// The losses of a step's micro-batches, [`crate::ops::optimizer::Progress::values`] before its update, and the gradient's
    /// norm, step after step.
    measured: Tensor,
    /// Numbers of a step.
    row: usize,
    /// Numbers of the unfinished step.
    column: usize,
    /// The learning rate of each update, the last also of all that follow; and the same on the device for each group of
    /// parameters.
    rates: Vec<f64>,
    device_rates: Vec<Tensor>,
    /// Steps that have not been read, and whether they have a loss scale.
    unread: Vec<(u64, bool)>,
    since: Instant,
}

impl Steps {
    /// For steps of `accumulated` micro-batches. `rates` has the learning rate of each update, at least one; the last is
    /// also that of all that follow. Groups of parameters learn at these times their `factors`
    /// ([`FlatParameters::factors`]). The host cannot know which update a step is: steps whose gradients overflow are
    /// skipped on the device.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(device: &Device, accumulated: usize, rates: Vec<f64>, factors: &[f64]) -> Result<Self> {
        let row = accumulated + PROGRESS + 1;
        let numbers =
            |values: Vec<f64>| Tensor::new(values.clone(), &[values.len()]).cast(device.number_dtype()).to(device);
        Ok(Self {
            device: device.clone(),
            inputs: Upload::default(),
            micro_batch: CachedGraph::New,
            update: CachedGraph::New,
            loss: numbers(vec![0.0])?,
            norm: numbers(vec![0.0])?,
            measured: numbers(vec![0.0; STEPS * row])?,
            device_rates: (factors.iter())
                .map(|factor| numbers(rates.iter().map(|rate| rate * factor).collect()))
                .collect::<Result<_>>()?,
            rates,
            row,
            column: 0,
            unread: Vec::new(),
            since: Instant::now(),
        })
    }

    /// Adds the gradients of `factor * loss`, as [`Objective::compute`].
    ///
    /// # Errors
    /// What the device says.
    pub fn micro_batch(
        &mut self,
        objective: &Objective,
        unet: &UNet,
        flat: &mut FlatParameters,
        batch: &MicroBatch,
        factor: f64,
    ) -> Result<()> {
        let mut batch = objective.prepare(batch)?;
        if self.inputs.run(&self.device, &mut batch.tensors())? {
            self.micro_batch = CachedGraph::New;
        }
        let loss = &mut self.loss;
        self.device.repeat(&mut self.micro_batch, || {
            let computed = objective.differentiate(unet, &batch, &flat.leaves(), factor, flat.loss_scale())?;
            flat.accumulate(&computed.gradients)?;
            loss.write(0, &computed.loss)
        })?;
        self.keep(&self.loss.clone())
    }

    /// The same where the text states come from `encoders`, whose LoRA layers have gradients too. `texts`: what they read; the
    /// batch has [none of its own](crate::generate::Conditions::pending).
    ///
    /// # Errors
    /// What the device says.
    pub fn micro_batch_with(
        &mut self,
        objective: &Objective,
        (unet, encoders): (&UNet, &TextEncoders),
        flat: &mut FlatParameters,
        (batch, mut texts): (&MicroBatch, TextInput),
        factor: f64,
    ) -> Result<()> {
        let mut batch = objective.prepare(batch)?;
        let mut tensors = batch.tensors();
        tensors.extend(texts.tensors());
        if self.inputs.run(&self.device, &mut tensors)? {
            self.micro_batch = CachedGraph::New;
        }
        let loss = &mut self.loss;
        self.device.repeat(&mut self.micro_batch, || {
            let tape = Tape::watching(&flat.leaves());
            let states = encoders.encode_input(&tape, &texts)?;
            let computed = objective.differentiate_with(tape, unet, &batch, &states, factor, flat.loss_scale())?;
            flat.accumulate(&computed.gradients)?;
            loss.write(0, &computed.loss)
        })?;
        self.keep(&self.loss.clone())
    }

    /// Ends a step, as [`FlatParameters::update`], at the rate of the update that it makes.
    ///
    /// # Errors
    /// What the device says.
    pub fn update(&mut self, flat: &mut FlatParameters, max_norm: f64) -> Result<()> {
        flat.count_step()?;
        // The update changes it.
        self.keep(&flat.progress_values().clone())?;
        let (norm, rates) = (&mut self.norm, &self.device_rates);
        self.device.repeat(&mut self.update, || norm.write(0, &flat.queue_update(rates, max_norm)?))?;
        flat.publish();
        self.keep(&self.norm.clone())?;
        self.unread.push((flat.step, flat.adapts()));
        self.column = 0;
        Ok(())
    }

    /// Puts numbers behind those that have not been read.
    fn keep(&mut self, numbers: &Tensor) -> Result<()> {
        let place = self.unread.len() * self.row + self.column;
        self.column += numbers.len();
        self.measured.write(place, numbers)
    }

    /// Whether [`Steps::reports`] should be asked for before the next step.
    pub fn is_full(&self) -> bool {
        !self.device.is_asynchronous() || self.unread.len() == STEPS || self.since.elapsed() > PATIENCE
    }

    /// What the steps since the last call have measured.
    ///
    /// # Errors
    /// What the device says, also of launches before.
    pub fn reports(&mut self) -> Result<Vec<StepReport>> {
        self.since = Instant::now();
        if self.unread.is_empty() {
            return Ok(Vec::new());
        }
        let len = self.unread.len() * self.row;
        let measured = self.measured.view(0, &[len]).to_cpu()?;
        let measured = measured.reals::<f64>();
        let rows = measured.chunks_exact(self.row);
        let (accumulated, rates) = (self.row - PROGRESS - 1, &self.rates);
        let report = |((step, adapts), row): ((u64, bool), &[f64])| {
            let (losses, rest) = row.split_at(accumulated);
            let [scale, _, updates, norm] = [0, 1, 2, 3].map(|i| rest[i]);
            StepReport {
                step,
                loss: losses.iter().map(|loss| loss / accumulated as f64).sum(),
                grad_norm: norm,
                loss_scale: adapts.then_some(scale),
                lr: rates[(updates as usize).min(rates.len() - 1)],
            }
        };
        Ok(self.unread.drain(..).zip(rows).map(report).collect())
    }
}

#[cfg(all(test, feature = "simulator"))]
mod tests;
