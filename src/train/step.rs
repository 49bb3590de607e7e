//! One micro-batch: noise the latents, predict, compare, differentiate.

use crate::autograd::{Gradients, Tape};
use crate::diffusion::{NoiseSchedule, Prediction};
use crate::error::Result;
use crate::nn::{AddedConditions, UNet};
use crate::ops;
use crate::tensor::Tensor;

/// What the network is trained towards.
pub struct Objective {
    pub schedule: NoiseSchedule,
    pub prediction: Prediction,
    /// min-SNR weighting (Hang et al. 2023, arXiv:2303.09556).
    pub snr_gamma: Option<f64>,
}

/// A micro-batch with everything drawn: latents and noise `[n, h, w, c]`, one timestep a sample, text states `[n, l, d]`.
pub struct MicroBatch {
    pub latents: Tensor,
    pub noise: Tensor,
    pub timesteps: Vec<usize>,
    pub context: Tensor,
    pub added: Option<AddedConditions>,
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
    /// Loss of a micro-batch, and the gradients of `factor * loss` (1 / accumulated micro-batches) for `leaves`.
    pub fn compute(&self, unet: &UNet, batch: &MicroBatch, leaves: &[Tensor], factor: f64) -> Result<Computed> {
        let noisy = self
            .schedule
            .add_noise(&batch.latents, &batch.noise, &batch.timesteps)?;
        let prediction = self.prediction;
        let target = prediction.target(&self.schedule, &batch.latents, &batch.noise, &batch.timesteps)?;
        let weights = self
            .schedule
            .min_snr_weights(&batch.timesteps, self.snr_gamma, prediction);
        let weights: Vec<f32> = weights.into_iter().map(|w| w as f32).collect();
        let tape = Tape::watching(leaves);
        let timesteps: Vec<f32> = batch.timesteps.iter().map(|&t| t as f32).collect();
        let predicted = unet.forward(&tape, &noisy, &timesteps, &batch.context, batch.added.as_ref())?;
        let loss = ops::weighted_mse(&tape, &predicted, &target, &weights)?;
        let value = loss.item();
        let scaled = ops::scale(&tape, &loss, factor)?;
        let gradients = tape.backward(&scaled)?;
        Ok(Computed {
            noisy,
            target,
            predicted,
            loss: value,
            gradients,
        })
    }
}
