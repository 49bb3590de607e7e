//! One micro-batch: noise the latents, predict, compare, differentiate.

use rayon::prelude::*;

use crate::autograd::{Gradients, Tape};
use crate::device::Device;
use crate::device::gpu::noise::{Draw, Target, add_noise};
use crate::diffusion::{NoiseSchedule, Prediction};
use crate::error::{Error, Result};
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
    /// Of each sample in the loss, besides min-SNR's.
    pub weights: Vec<f64>,
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

/// A micro-batch as the network takes it. All that differs from one to the next is in its tensors, so that they alone have to
/// change where a step is replayed.
pub struct Prepared {
    input: Input,
    /// f32 `[n]`.
    timesteps: Tensor,
    /// Weights in the loss, f32 `[n]`.
    weights: Tensor,
    context: Tensor,
    added: Option<AddedConditions>,
}

/// Noisy latents and what is to be predicted from them, or what makes them on a GPU.
enum Input {
    Noised {
        noisy: Tensor,
        target: Tensor,
    },
    Drawn {
        seed: u64,
        latents: Tensor,
        /// What latents and noise are multiplied by, f32 `[n]`.
        signal: Tensor,
        sigma: Tensor,
        /// i64 `[n]` and `[1]`, as [`Draw`] takes them.
        index: Tensor,
        step: Tensor,
    },
}

impl Prepared {
    /// All of them, in an order that depends on nothing but which there are.
    pub fn tensors(&mut self) -> Vec<&mut Tensor> {
        let mut all = match &mut self.input {
            Input::Noised { noisy, target } => vec![noisy, target],
            Input::Drawn { latents, signal, sigma, index, step, .. } => vec![latents, signal, sigma, index, step],
        };
        all.extend([&mut self.timesteps, &mut self.weights, &mut self.context]);
        if let Some(added) = &mut self.added {
            all.extend([&mut added.text_embeds, &mut added.time_ids]);
        }
        all
    }
}

/// What one micro-batch computed.
pub struct Computed {
    pub noisy: Tensor,
    pub target: Tensor,
    pub predicted: Tensor,
    /// `[]`.
    pub loss: Tensor,
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
        let device = unet.device();
        let mut prepared = self.prepare(batch, &device)?;
        for tensor in prepared.tensors() {
            *tensor = tensor.to(&device)?;
        }
        self.differentiate(unet, &prepared, leaves, factor, scale)
    }

    /// All of [`Objective::compute`] that the host does: the tensors are still there.
    pub fn prepare(&self, batch: &MicroBatch, device: &Device) -> Result<Prepared> {
        let weights = self.schedule.min_snr_weights(&batch.timesteps, self.snr_gamma, self.prediction);
        let (latents, n) = (&batch.latents, batch.timesteps.len());
        let floats = |values: Vec<f32>| Tensor::new(values, &[n]);
        let input = match (&batch.noise, device) {
            (Noise::Given(noise), _) => self.noised(latents, noise, &batch.timesteps)?,
            (Noise::Drawn { seed, positions }, Device::Cpu) => {
                let len = latents.len() / positions.len().max(1);
                let draw = |&position| random::normals(*seed, Stream::Noise, position, 0, len);
                let values: Vec<f32> = positions.par_iter().flat_map_iter(draw).collect();
                let noise = Tensor::new(values, latents.shape()).cast(latents.dtype());
                self.noised(latents, &noise, &batch.timesteps)?
            }
            (Noise::Drawn { seed, positions }, Device::Gpu(_)) => {
                let alphas = batch.timesteps.iter().map(|&t| self.schedule.alpha(t));
                let alphas: Vec<f64> = alphas.collect::<Result<_>>()?;
                let each = |f: fn(f64) -> f64| floats(alphas.iter().map(|&a| f(a).sqrt() as f32).collect());
                let index = positions.iter().map(|&position| position.cast_signed()).collect();
                Input::Drawn {
                    seed: *seed,
                    latents: latents.clone(),
                    signal: each(|a| a),
                    sigma: each(|a| 1.0 - a),
                    index: Tensor::new::<i64>(index, &[positions.len()]),
                    step: Tensor::new(vec![0_i64], &[1]),
                }
            }
        };
        Ok(Prepared {
            input,
            timesteps: floats(batch.timesteps.iter().map(|&t| t as f32).collect()),
            weights: floats(weights.iter().zip(&batch.weights).map(|(a, b)| (a * b) as f32).collect()),
            context: batch.context.clone(),
            added: batch.added.clone(),
        })
    }

    /// All of [`Objective::compute`] that the device does, from tensors that are there.
    pub fn differentiate(
        &self,
        unet: &UNet,
        batch: &Prepared,
        leaves: &[Tensor],
        factor: f64,
        scale: Tensor,
    ) -> Result<Computed> {
        self.differentiate_on(Tape::watching(leaves), unet, batch, &batch.context, factor, scale)
    }

    /// The same on a tape that may know how `context` came about.
    pub fn differentiate_on(
        &self,
        tape: Tape,
        unet: &UNet,
        batch: &Prepared,
        context: &Tensor,
        factor: f64,
        scale: Tensor,
    ) -> Result<Computed> {
        let [noisy, target] = self.input(&batch.input)?;
        let predicted = unet.forward_at(&tape, &noisy, &batch.timesteps, context, batch.added.as_ref())?;
        let loss = ops::weighted_mse(&tape, &predicted, &target, &batch.weights)?;
        let scaled = ops::scale(&tape, &loss, factor)?;
        let gradients = tape.backward_from(&scaled, scale)?;
        Ok(Computed { noisy, target, predicted, loss, gradients })
    }

    fn noised(&self, latents: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Input> {
        Ok(Input::Noised {
            noisy: self.schedule.add_noise(latents, noise, timesteps)?,
            target: self.prediction.target(&self.schedule, latents, noise, timesteps)?,
        })
    }

    /// Noisy latents and what is to be predicted from them.
    fn input(&self, input: &Input) -> Result<[Tensor; 2]> {
        let (seed, latents, tensors) = match input {
            Input::Noised { noisy, target } => return Ok([noisy.clone(), target.clone()]),
            Input::Drawn { seed, latents, signal, sigma, index, step } => {
                (seed, latents, [latents, signal, sigma, index, step])
            }
        };
        let missing = || Error::Failed("noise is drawn on a GPU, but the latents are on the CPU".into());
        let memory = tensors.map(|tensor| tensor.memory().ok_or_else(missing));
        let [memory, signal, sigma, index, step] = memory;
        let (memory, index, step) = (memory?, index?, step?);
        let draw = Draw { seed: *seed, stream: Stream::Noise, index: &index, step: &step };
        let target = match self.prediction {
            Prediction::V => Target::Velocity,
            Prediction::Epsilon | Prediction::Sample => Target::Noise,
        };
        let drawn = add_noise(&memory, &signal?, &sigma?, draw, target)?;
        let [noisy, drawn] = drawn.map(|memory| Tensor::on_gpu(memory, latents.shape()));
        Ok(match self.prediction {
            Prediction::Sample => [noisy, latents.clone()],
            Prediction::Epsilon | Prediction::V => [noisy, drawn],
        })
    }
}
