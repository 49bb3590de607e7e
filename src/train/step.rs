//! One micro-batch: noise the latents, predict, compare, differentiate.

use super::loss::{Loss, LossType};
use crate::autograd::{Gradients, Tape};
use crate::data::batch::{MicroBatch, Noise};
use crate::diffusion::{NoiseSchedule, Prediction};
use crate::error::Result;
use crate::generate::Conditions;
use crate::nn::{AddedConditions, UNet};
use crate::ops;
use crate::ops::noise::{Draw, Target, add_noise};
use crate::random::Stream;
use crate::tensor::Tensor;

/// What the network is trained towards.
pub struct Objective {
    pub schedule: NoiseSchedule,
    pub prediction: Prediction,
    /// min-SNR weighting (Hang et al. 2023, arXiv:2303.09556).
    pub snr_gamma: Option<f64>,
    pub loss: Loss,
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

/// Noisy latents and what is to be predicted from them, or what they are made of.
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
        /// As [`Draw`] takes them.
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

/// What one micro-batch gives.
pub struct StepOutput {
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
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the batch does not fit the network; what a device says.
    pub fn compute(
        &self,
        unet: &UNet,
        batch: &MicroBatch,
        leaves: &[Tensor],
        factor: f64,
        scale: Tensor,
    ) -> Result<StepOutput> {
        let device = unet.device();
        let mut prepared = self.prepare(batch)?;
        for tensor in prepared.tensors() {
            *tensor = tensor.to(&device)?;
        }
        self.differentiate(unet, &prepared, leaves, factor, scale)
    }

    /// All of [`Objective::compute`] that the host does: the tensors are still there.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] where a timestep is outside of the schedule; [`crate::Error::Shape`] where latents and
    /// noise do not fit.
    pub fn prepare(&self, batch: &MicroBatch) -> Result<Prepared> {
        let weights = self.schedule.min_snr_weights(&batch.timesteps, self.snr_gamma, self.prediction);
        let (latents, n) = (&batch.latents, batch.timesteps.len());
        let floats = |values: Vec<f32>| Tensor::new(values, &[n]);
        let input = match &batch.noise {
            Noise::Given(noise) => self.noised(latents, noise, noise, &batch.timesteps)?,
            Noise::Perturbed { noise, seen } => self.noised(latents, noise, seen, &batch.timesteps)?,
            Noise::Drawn { seed, positions } => {
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
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the batch does not fit the network; what a device says.
    pub fn differentiate(
        &self,
        unet: &UNet,
        batch: &Prepared,
        leaves: &[Tensor],
        factor: f64,
        scale: Tensor,
    ) -> Result<StepOutput> {
        self.differentiate_on(Tape::watching(leaves), unet, batch, &batch.context, factor, scale)
    }

    /// The same on a tape that knows how `texts` came about, which take the place of the batch's own.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the batch does not fit the network; what a device says.
    pub fn differentiate_with(
        &self,
        tape: Tape,
        unet: &UNet,
        batch: &Prepared,
        texts: &Conditions,
        factor: f64,
        scale: Tensor,
    ) -> Result<StepOutput> {
        let added = batch
            .added
            .as_ref()
            .zip(texts.pooled.as_ref())
            .map(|(added, pooled)| AddedConditions { text_embeds: pooled.clone(), time_ids: added.time_ids.clone() });
        self.differentiated(tape, unet, batch, (&texts.context, added.as_ref()), factor, scale)
    }

    /// The same on a tape that may know how `context` came about.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the batch does not fit the network; what a device says.
    pub fn differentiate_on(
        &self,
        tape: Tape,
        unet: &UNet,
        batch: &Prepared,
        context: &Tensor,
        factor: f64,
        scale: Tensor,
    ) -> Result<StepOutput> {
        self.differentiated(tape, unet, batch, (context, batch.added.as_ref()), factor, scale)
    }

    fn differentiated(
        &self,
        tape: Tape,
        unet: &UNet,
        batch: &Prepared,
        (context, added): (&Tensor, Option<&AddedConditions>),
        factor: f64,
        scale: Tensor,
    ) -> Result<StepOutput> {
        let [noisy, target] = self.input(&batch.input)?;
        let predicted = unet.forward_at(&tape, &noisy, &batch.timesteps, context, added)?;
        let loss = self.compare(&tape, &predicted, &target, batch)?;
        let scaled = ops::scale(&tape, &loss, factor)?;
        let gradients = tape.backward_from(&scaled, scale)?;
        Ok(StepOutput { noisy, target, predicted, loss, gradients })
    }

    /// The loss of a micro-batch without its gradients.
    ///
    /// # Errors
    /// As [`Objective::compute`].
    pub fn measure(&self, unet: &UNet, batch: &MicroBatch) -> Result<f64> {
        let device = unet.device();
        let mut batch = self.prepare(batch)?;
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
        let target = match self.prediction {
            Prediction::Epsilon => Target::Noise,
            Prediction::V => Target::Velocity,
            Prediction::Sample => Target::Sample,
        };
        match input {
            Input::Noised { noisy, target } => Ok([noisy.clone(), target.clone()]),
            Input::Drawn { seed, latents, signal, sigma, index, step } => {
                let draw = Draw { seed: *seed, stream: Stream::Noise, index, step };
                add_noise(latents, signal, sigma, draw, target)
            }
        }
    }
}
