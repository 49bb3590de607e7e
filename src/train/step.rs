//! One micro-batch: noise the latents, predict, compare, differentiate.

use rayon::prelude::*;

use super::loss::{Loss, LossType};
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
    pub loss: Loss,
}

/// A micro-batch on the CPU: latents `[n, h, w, c]` and their noise, one timestep a sample, text states `[n, l, d]`.
pub struct MicroBatch {
    pub latents: Tensor,
    pub noise: Noise,
    pub timesteps: Vec<usize>,
    /// Of each sample in the loss, besides min-SNR's.
    pub weights: Vec<f64>,
    /// What each latent pixel weighs, f32 `[n, h, w]`, where not all weigh the same.
    pub mask: Option<Tensor>,
    pub context: Tensor,
    pub added: Option<AddedConditions>,
}

/// The noise that is added to latents.
pub enum Noise {
    /// Like the latents, on the CPU.
    Given(Tensor),
    /// The same, where the network sees another noise than it is to predict.
    Perturbed { noise: Tensor, seen: Tensor },
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
    /// Weights in the loss, f32 `[n]` or `[n, h, w]`.
    weights: Tensor,
    /// Where the distance of each sample bends, f32 `[n]`; none where the loss is plain.
    bends: Option<Tensor>,
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
        all.extend(&mut self.bends);
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
            (Noise::Given(noise), _) => self.noised(latents, noise, noise, &batch.timesteps)?,
            (Noise::Perturbed { noise, seen }, _) => self.noised(latents, noise, seen, &batch.timesteps)?,
            (Noise::Drawn { seed, positions }, Device::Cpu) => {
                let len = latents.len() / positions.len().max(1);
                let draw = |&position| random::normals(*seed, Stream::Noise, position, 0, len);
                let values: Vec<f32> = positions.par_iter().flat_map_iter(draw).collect();
                let noise = Tensor::new(values, latents.shape()).cast(latents.dtype());
                self.noised(latents, &noise, &noise, &batch.timesteps)?
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
        let weights: Vec<f32> = weights.iter().zip(&batch.weights).map(|(a, b)| (a * b) as f32).collect();
        let plain = self.loss.kind == LossType::L2 && batch.mask.is_none();
        Ok(Prepared {
            input,
            bends: match plain {
                true => None,
                false => Some(floats(self.loss.bends(&self.schedule, &batch.timesteps)?)),
            },
            timesteps: floats(batch.timesteps.iter().map(|&t| t as f32).collect()),
            weights: match &batch.mask {
                None => floats(weights),
                Some(mask) => {
                    let each = mask.len() / n.max(1);
                    let masked = mask.data::<f32>().iter().enumerate().map(|(i, x)| x * weights[i / each]);
                    Tensor::new(masked.collect::<Vec<f32>>(), mask.shape())
                }
            },
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
        let loss = self.compare(&tape, &predicted, &target, batch)?;
        let scaled = ops::scale(&tape, &loss, factor)?;
        let gradients = tape.backward_from(&scaled, scale)?;
        Ok(Computed { noisy, target, predicted, loss, gradients })
    }

    /// The loss of a micro-batch without its gradients.
    ///
    /// # Errors
    /// As [`Objective::compute`].
    pub fn measure(&self, unet: &UNet, batch: &MicroBatch) -> Result<f64> {
        let device = unet.device();
        let mut batch = self.prepare(batch, &device)?;
        for tensor in batch.tensors() {
            *tensor = tensor.to(&device)?;
        }
        let ([noisy, target], tape) = (self.input(&batch.input)?, Tape::off());
        let predicted = unet.forward_at(&tape, &noisy, &batch.timesteps, &batch.context, batch.added.as_ref())?;
        Ok(self.compare(&tape, &predicted, &target, &batch)?.to_cpu()?.item())
    }

    fn compare(&self, tape: &Tape, predicted: &Tensor, target: &Tensor, batch: &Prepared) -> Result<Tensor> {
        match &batch.bends {
            None => ops::weighted_mse(tape, predicted, target, &batch.weights),
            Some(c) => ops::weighted_distance(tape, predicted, target, &batch.weights, c, self.loss.distance()),
        }
    }

    fn noised(&self, latents: &Tensor, noise: &Tensor, seen: &Tensor, timesteps: &[usize]) -> Result<Input> {
        Ok(Input::Noised {
            noisy: self.schedule.add_noise(latents, seen, timesteps)?,
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
