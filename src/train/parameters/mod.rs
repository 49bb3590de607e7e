//! All trainable parameters of a run in flat buffers, so that norm, clip, AdamW and checkpoint are one pass each.

mod gpu;
mod host;
mod progress;

use std::borrow::Cow;

use crate::autograd::Gradients;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::error::Result;
use crate::nn::Param;
use crate::ops::optimizer::AdamW;
use crate::tensor::{DType, Tensor};
pub use host::{Buffers as HostBuffers, Moments};
pub use progress::Progress;

/// Master copy (f32), gradient sums and the two AdamW moments of a list of parameters, on the parameters' device; each
/// parameter of the model is a view into one mirror of the master in the model's precision.
pub struct FlatParameters {
    params: Vec<Param>,
    dtype: DType,
    buffers: Buffers,
    /// How fast the running average of the master copy forgets, where the run keeps one.
    average_decay: f64,
    /// Steps taken, also those that were no update because gradients left the range of f16.
    pub step: u64,
}

enum Buffers {
    Host(host::Buffers),
    Gpu(gpu::Buffers),
}

/// What one update is told.
#[derive(Clone, Copy)]
pub struct Settings {
    adamw: AdamW,
    /// 0: not clipped.
    max_norm: f64,
    /// What the running average keeps of itself, where there is one.
    average_keeps: f64,
}

impl FlatParameters {
    /// Takes the present values of `params`, which are all on one device, as the start; `dtype` is the precision of the
    /// model.
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub fn new(params: Vec<Param>, dtype: DType) -> Result<Self> {
        let mut master = Vec::new();
        for param in &params {
            master.extend_from_slice(&param.get().to_cpu()?.reals::<f32>());
        }
        let buffers = match params.first().map_or(Device::Cpu, |param| param.get().device()) {
            Device::Cpu => Buffers::Host(host::Buffers::new(master, dtype)),
            Device::Gpu(gpu) => Buffers::Gpu(gpu::Buffers::new(&gpu, master, dtype)?),
        };
        let flat = Self { params, dtype, buffers, average_decay: 0.0, step: 0 };
        flat.publish();
        Ok(flat)
    }

    /// As [`FlatParameters::new`] for `params` on a GPU, with unspecified values: for a list of what training launches.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn unset(params: Vec<Param>, gpu: &Gpu, dtype: DType) -> Result<Self> {
        let len = params.iter().map(|param| param.get().len()).sum();
        let buffers = Buffers::Gpu(gpu::Buffers::unset(gpu, len, dtype)?);
        let flat = Self { params, dtype, buffers, average_decay: 0.0, step: 0 };
        flat.publish();
        Ok(flat)
    }

    /// Keeps an exponential moving average from here on. After step t it decays by `decay`, or by (1 + t) / (10 + t)
    /// where that is less, so that the start is soon forgotten (as diffusers' and TensorFlow's averages do).
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub fn keep_average(&mut self, decay: f64) -> Result<()> {
        self.average_decay = decay;
        self.change(|buffers| {
            buffers.average = Some(buffers.master.clone());
            Ok(())
        })
    }

    /// Keeps both moments in 8 bits a value from here on.
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub fn keep_moments_in_8_bits(&mut self) -> Result<()> {
        self.change(|buffers| {
            buffers.moments = buffers.moments.in_8_bits();
            Ok(())
        })
    }

    /// Numbers that are trained.
    pub fn len(&self) -> usize {
        match &self.buffers {
            Buffers::Host(buffers) => buffers.master.len(),
            Buffers::Gpu(buffers) => buffers.master.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The buffers on the CPU.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn buffers(&self) -> Result<Cow<'_, HostBuffers>> {
        match &self.buffers {
            Buffers::Host(buffers) => Ok(Cow::Borrowed(buffers)),
            Buffers::Gpu(buffers) => buffers.download().map(Cow::Owned),
        }
    }

    /// Changes the buffers on the CPU, and makes the model see the master copy.
    ///
    /// # Errors
    /// What `change` or a GPU says.
    pub fn change(&mut self, change: impl FnOnce(&mut HostBuffers) -> Result<()>) -> Result<()> {
        match &mut self.buffers {
            Buffers::Host(buffers) => change(buffers)?,
            Buffers::Gpu(buffers) => {
                let mut local = buffers.download()?;
                change(&mut local)?;
                *buffers = gpu::Buffers::upload(&buffers.master.gpu().clone(), &local, self.dtype)?;
            }
        }
        self.publish();
        Ok(())
    }

    /// The tensors that a tape watches.
    pub fn leaves(&self) -> Vec<Tensor> {
        self.params.iter().map(Param::get).collect()
    }

    /// Makes the model see the master copy. Called after every change of it.
    pub fn publish(&self) {
        self.show(&match &self.buffers {
            Buffers::Host(buffers) => host::Buffers::mirror(&buffers.master, self.dtype),
            Buffers::Gpu(buffers) => Tensor::on_gpu(buffers.mirror.clone(), &[buffers.mirror.len()]),
        });
    }

    /// Makes the model see the average, until the next [`FlatParameters::publish`]; the master copy where there is none.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn publish_average(&self) -> Result<()> {
        let mirror = match &self.buffers {
            Buffers::Host(host::Buffers { average: Some(average), .. }) => host::Buffers::mirror(average, self.dtype),
            Buffers::Gpu(gpu::Buffers { average: Some(average), .. }) => gpu::mirror(average, self.dtype)?,
            _ => {
                self.publish();
                return Ok(());
            }
        };
        self.show(&mirror);
        Ok(())
    }

    fn show(&self, mirror: &Tensor) {
        let mut offset = 0;
        for param in &self.params {
            let shape = param.get().shape().to_vec();
            param.set(mirror.view(offset, &shape));
            offset += shape.iter().product::<usize>();
        }
    }

    /// Adds one micro-batch's gradients. A parameter that the loss did not depend on adds nothing.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn accumulate(&mut self, gradients: &Gradients) -> Result<()> {
        let mut offset = 0;
        for param in &self.params {
            let value = param.get();
            if let Some(gradient) = gradients.get(&value) {
                match &mut self.buffers {
                    Buffers::Host(buffers) => buffers.accumulate(offset, gradient),
                    Buffers::Gpu(buffers) => buffers.accumulate(offset, gradient)?,
                }
            }
            offset += value.len();
        }
        Ok(())
    }

    /// What the gradient of a loss begins with, a scalar on the parameters' device: the loss scale in f16, else 1.
    pub fn loss_scale(&self) -> Tensor {
        match &self.buffers {
            Buffers::Host(buffers) => Tensor::full(&[], f64::from(buffers.progress.scale), DType::F32),
            Buffers::Gpu(buffers) => Tensor::on_gpu(buffers.scale(), &[]),
        }
    }

    /// Updates made, and the loss scale.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn progress(&self) -> Result<Progress> {
        match &self.buffers {
            Buffers::Host(buffers) => Ok(buffers.progress),
            Buffers::Gpu(buffers) => buffers.progress(),
        }
    }

    /// Global 2-norm of the accumulated gradient, without its loss scale.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn gradient_norm(&self) -> Result<f64> {
        match &self.buffers {
            Buffers::Host(buffers) => Ok(buffers.gradient_norm()),
            Buffers::Gpu(buffers) => buffers.gradient_norm(),
        }
    }

    /// One AdamW step with the gradient clipped to a global norm of `max_norm` (0: not clipped); clears the gradient
    /// and returns its norm before clipping. The factor is PyTorch's: max / (norm + 1e-6), where that is below 1. Where
    /// the norm is not finite, the parameters stay as they are, and a loss scale halves.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn update(&mut self, adamw: AdamW, max_norm: f64) -> Result<f64> {
        let settings = self.next_update(adamw, max_norm);
        let norm = match &mut self.buffers {
            Buffers::Host(buffers) => buffers.update(settings),
            Buffers::Gpu(buffers) => buffers.update(settings)?,
        };
        self.publish();
        Ok(norm)
    }

    /// Counts a step, and says what its update is told.
    pub(super) fn next_update(&mut self, adamw: AdamW, max_norm: f64) -> Settings {
        self.step += 1;
        let t = self.step as f64;
        Settings { adamw, max_norm, average_keeps: self.average_decay.min((1.0 + t) / (10.0 + t)) }
    }

    /// The buffers, where they are on a GPU.
    pub(super) fn on_gpu(&self) -> Option<&gpu::Buffers> {
        match &self.buffers {
            Buffers::Host(_) => None,
            Buffers::Gpu(buffers) => Some(buffers),
        }
    }
}
