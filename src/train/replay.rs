//! Training steps on a GPU. The work of a micro-batch and that of an update are each done once as they come, then recorded,
//! then replayed: whatever differs from step to step is put into the device's memory before. What steps measure stays there
//! until there is enough of it to be worth waiting for.

use std::time::{Duration, Instant};

use super::parameters::FlatParameters;
use super::step::{MicroBatch, Objective, Prepared};
use super::watcher::StepReport;
use crate::device::Device;
use crate::device::gpu::graph::Repeated;
use crate::device::gpu::{Buffer, Gpu};
use crate::error::{Error, Result};
use crate::nn::UNet;
use crate::ops::optimizer::AdamW;
use crate::tensor::{DType, Tensor};

/// Steps whose losses are kept on the device at most.
const STEPS: usize = 16;
/// They are read earlier where steps take long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Numbers of [`Progress::values`].
const PROGRESS: usize = 3;
/// Tensors of a micro-batch begin at multiples of this in the memory that they share.
const ALIGNMENT: usize = 256;

/// How the steps of one run are done.
pub struct Replay {
    gpu: Gpu,
    inputs: Inputs,
    micro_batch: Repeated,
    update: Repeated,
    /// Of the last micro-batch; f32 `[1]`, as the next.
    loss: Buffer,
    norm: Buffer,
    /// The losses of a step's micro-batches, [`Progress::values`] before its update, and the gradient's norm, step after
    /// step; f32.
    measured: Buffer,
    /// Numbers of a step.
    row: usize,
    /// Numbers of the unfinished step.
    column: usize,
    /// The learning rate of each update, the last also of all that follow; and the same on the device, f32.
    rates: Vec<f64>,
    device_rates: Buffer,
    /// Steps that have not been read, and whether they have a loss scale.
    unread: Vec<(u64, bool)>,
    since: Instant,
}

impl Replay {
    /// For steps of `accumulated` micro-batches. `rates` has the learning rate of each update, at least one; the last is also
    /// that of all that follow. Which update a step makes, or whether it makes none, the device knows first.
    ///
    /// # Errors
    /// Where the GPU has no room.
    pub fn new(gpu: &Gpu, accumulated: usize, rates: Vec<f64>) -> Result<Self> {
        let row = accumulated + PROGRESS + 1;
        let floats: Vec<f32> = rates.iter().map(|&rate| rate as f32).collect();
        Ok(Self {
            gpu: gpu.clone(),
            inputs: Inputs::default(),
            micro_batch: Repeated::New,
            update: Repeated::New,
            loss: gpu.buffer(DType::F32, 1)?,
            norm: gpu.buffer(DType::F32, 1)?,
            measured: gpu.buffer(DType::F32, STEPS * row)?,
            device_rates: gpu.upload(&floats)?,
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
    /// What the GPU says.
    pub fn micro_batch(
        &mut self,
        objective: &Objective,
        unet: &UNet,
        flat: &mut FlatParameters,
        batch: &MicroBatch,
        factor: f64,
    ) -> Result<()> {
        let mut batch = objective.prepare(batch, &Device::Gpu(self.gpu.clone()))?;
        if self.inputs.place(&self.gpu, &mut batch)? {
            self.micro_batch = Repeated::New;
        }
        let loss = &self.loss;
        self.micro_batch.run(&self.gpu, || {
            let computed = objective.differentiate(unet, &batch, &flat.leaves(), factor, flat.loss_scale())?;
            flat.accumulate(&computed.gradients)?;
            let scalar = computed.loss.memory();
            loss.copy_from(&scalar.ok_or_else(|| Error::Failed("a loss on the CPU of a network on a GPU".into()))?)
        })?;
        self.keep(&self.loss.clone())
    }

    /// Ends a step, as [`FlatParameters::update`], but at the rate of the update that it makes.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn update(&mut self, flat: &mut FlatParameters, adamw: AdamW, max_norm: f64) -> Result<()> {
        let settings = flat.next_update(adamw, max_norm);
        let buffers = flat.on_gpu();
        let buffers = buffers.ok_or_else(|| Error::Failed("parameters on the CPU of a network on a GPU".into()))?;
        buffers.tell(settings)?;
        // The update changes it.
        self.keep(buffers.progress_values())?;
        let (norm, rates) = (&self.norm, &self.device_rates);
        self.update.run(&self.gpu, || norm.copy_from(&buffers.launch_update(settings, rates)?))?;
        self.keep(&self.norm.clone())?;
        self.unread.push((flat.step, buffers.adapts()));
        self.column = 0;
        Ok(())
    }

    /// Puts numbers behind those that have not been read.
    fn keep(&mut self, numbers: &Buffer) -> Result<()> {
        let place = self.unread.len() * self.row + self.column;
        self.column += numbers.len();
        self.measured.view(place, numbers.len()).copy_from(numbers)
    }

    /// Whether [`Replay::reports`] should be asked for before the next step.
    pub fn is_full(&self) -> bool {
        self.unread.len() == STEPS || self.since.elapsed() > PATIENCE
    }

    /// What the steps since the last call have measured.
    ///
    /// # Errors
    /// What the GPU says, also of launches before.
    pub fn reports(&mut self) -> Result<Vec<StepReport>> {
        self.since = Instant::now();
        if self.unread.is_empty() {
            return Ok(Vec::new());
        }
        let len = self.unread.len() * self.row;
        let measured = self.measured.view(0, len).download::<f32>()?;
        let rows = measured.chunks_exact(self.row);
        let (accumulated, rates) = (self.row - PROGRESS - 1, &self.rates);
        let report = |((step, adapts), row): ((u64, bool), &[f32])| {
            let (losses, rest) = row.split_at(accumulated);
            let [scale, _, updates, norm] = [0, 1, 2, 3].map(|i| rest[i]);
            StepReport {
                step,
                loss: losses.iter().map(|&loss| f64::from(loss) / accumulated as f64).sum(),
                grad_norm: f64::from(norm),
                loss_scale: adapts.then_some(f64::from(scale)),
                lr: rates[(updates as usize).min(rates.len() - 1)],
            }
        };
        Ok(self.unread.drain(..).zip(rows).map(report).collect())
    }
}

/// Memory that every micro-batch of the same sizes is copied to.
#[derive(Default)]
struct Inputs {
    memory: Option<Buffer>,
    bytes: Vec<u8>,
    sizes: Vec<(DType, Vec<usize>)>,
}

impl Inputs {
    /// Copies the tensors to the device, in one piece, and puts those there in their place. True where there were other
    /// sizes before.
    fn place(&mut self, gpu: &Gpu, batch: &mut Prepared) -> Result<bool> {
        let mut tensors = batch.tensors();
        let sizes: Vec<_> = tensors.iter().map(|tensor| (tensor.dtype(), tensor.shape().to_vec())).collect();
        let others = sizes != self.sizes;
        self.sizes = sizes;
        self.bytes.clear();
        let mut offsets = Vec::new();
        for tensor in &tensors {
            let offset = self.bytes.len().next_multiple_of(ALIGNMENT);
            self.bytes.resize(offset, 0);
            self.bytes.extend_from_slice(tensor.bytes());
            offsets.push(offset);
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let memory = match self.memory.take().filter(|memory| memory.byte_len() == self.bytes.len()) {
            Some(memory) => memory,
            None => gpu.buffer(DType::F32, self.bytes.len() / DType::F32.size())?,
        };
        memory.stage(&self.bytes)?;
        for (tensor, offset) in tensors.iter_mut().zip(offsets) {
            let part = memory.part(offset, tensor.dtype(), tensor.len());
            **tensor = Tensor::on_gpu(part, tensor.shape());
        }
        self.memory = Some(memory);
        Ok(others)
    }
}

#[cfg(all(test, feature = "simulator"))]
mod tests;
