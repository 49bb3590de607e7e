//! One micro-batch: noise the latents, predict, compare, differentiate.

use crate::autograd::{Gradients, Tape};
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::gpu::noise::{Draw, Target, add_noise};
use crate::diffusion::{NoiseSchedule, Prediction};
use crate::error::Result;
use crate::nn::{AddedConditions, UNet};
use crate::ops;
use crate::tensor::Tensor;
use crate::tensor::random::{self, Stream};

/// What the network is trained towards.
pub struct Objective {
    pub schedule: NoiseSchedule,
    pub prediction: Prediction,
    /// min-SNR weighting (Hang et al. 2023, arXiv:2303.09556).
    pub snr_gamma: Option<f64>,
}

/// A micro-batch on the CPU: latents `[n, h, w, c]` and their noise, one timestep a sample, text states `[n, l, d]`.
pub struct MicroBatch {
    pub latents: Tensor,
    pub noise: Noise,
    pub timesteps: Vec<usize>,
    pub context: Tensor,
    pub added: Option<AddedConditions>,
}

/// The noise that is added to latents.
pub enum Noise {
    /// Like the latents, on the CPU.
    Given(Tensor),
    /// The standard normal numbers of [`Stream::Noise`] for these positions in the run, one a sample; a network on a GPU
    /// has them drawn there. The numbers are the same, but there they are not rounded before they are added.
    Drawn { seed: u64, positions: Vec<u64> },
}

/// What one micro-batch computed.
pub struct Computed {
    pub noisy: Tensor,
    pub target: Tensor,
    pub predicted: Tensor,
    pub loss: f64,
    pub gradients: Gradients,
}

impl Objective {
    /// Loss of a micro-batch, and the gradients of `scale * factor * loss` for `leaves`: 1 / accumulated micro-batches, and
    /// the loss scale, a scalar on the network's device.
    pub fn compute(
        &self,
        unet: &UNet,
        batch: &MicroBatch,
        leaves: &[Tensor],
        factor: f64,
        scale: Tensor,
    ) -> Result<Computed> {
        let [noisy, target] = self.noised(batch, &unet.device())?;
        let weights = self
            .schedule
            .min_snr_weights(&batch.timesteps, self.snr_gamma, self.prediction);
        let weights: Vec<f32> = weights.into_iter().map(|w| w as f32).collect();
        let tape = Tape::watching(leaves);
        let timesteps: Vec<f32> = batch.timesteps.iter().map(|&t| t as f32).collect();
        let predicted = unet.forward(&tape, &noisy, &timesteps, &batch.context, batch.added.as_ref())?;
        let loss = ops::weighted_mse(&tape, &predicted, &target, &weights)?;
        let value = loss.to_cpu()?.item();
        let scaled = ops::scale(&tape, &loss, factor)?;
        let gradients = tape.backward_from(&scaled, scale)?;
        Ok(Computed {
            noisy,
            target,
            predicted,
            loss: value,
            gradients,
        })
    }

    /// Noisy latents and what is to be predicted from them, on `device`.
    fn noised(&self, batch: &MicroBatch, device: &Device) -> Result<[Tensor; 2]> {
        let latents = &batch.latents;
        let given = |noise: &Tensor| {
            let noisy = self.schedule.add_noise(latents, noise, &batch.timesteps)?;
            let target = self
                .prediction
                .target(&self.schedule, latents, noise, &batch.timesteps)?;
            Ok([noisy.to(device)?, target.to(device)?])
        };
        match (&batch.noise, device) {
            (Noise::Given(noise), _) => given(noise),
            (Noise::Drawn { seed, positions }, Device::Cpu) => {
                let len = latents.len() / positions.len().max(1);
                let draw = |&position| random::normals(*seed, Stream::Noise, position, 0, len);
                let values = positions.iter().flat_map(draw).collect();
                given(&Tensor::new(values, latents.shape()).cast(latents.dtype()))
            }
            (Noise::Drawn { seed, positions }, Device::Gpu(gpu)) => self.noised_there(batch, *seed, positions, gpu),
        }
    }

    fn noised_there(&self, batch: &MicroBatch, seed: u64, positions: &[u64], gpu: &Gpu) -> Result<[Tensor; 2]> {
        let alphas = batch.timesteps.iter().map(|&t| self.schedule.alpha(t));
        let alphas: Vec<f64> = alphas.collect::<Result<_>>()?;
        let each = |f: fn(f64) -> f64| {
            let values = alphas.iter().map(|&a| f(a).sqrt() as f32).collect();
            gpu.upload(&Tensor::new(values, &[alphas.len()]))
        };
        let (signal, sigma) = (each(|a| a)?, each(|a| 1.0 - a)?);
        let index = positions.iter().map(|&position| position.cast_signed()).collect();
        let index = gpu.upload(&Tensor::new::<i64>(index, &[positions.len()]))?;
        let draw = Draw {
            seed,
            stream: Stream::Noise,
            index: &index,
            step: &gpu.upload(&Tensor::new(vec![0_i64], &[1]))?,
        };
        let target = match self.prediction {
            Prediction::V => Target::Velocity,
            Prediction::Epsilon | Prediction::Sample => Target::Noise,
        };
        let latents = gpu.upload(&batch.latents)?;
        let [noisy, wanted] = add_noise(&latents, &signal, &sigma, draw, target)?;
        let wanted = match self.prediction {
            Prediction::Sample => latents,
            Prediction::Epsilon | Prediction::V => wanted,
        };
        Ok([noisy, wanted].map(|memory| Tensor::on_gpu(memory, batch.latents.shape())))
    }
}
