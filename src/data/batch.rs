//! What the data of a run ends as.

use crate::nn::AddedConditions;
use crate::tensor::Tensor;

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
    /// The standard normal numbers of [`Stream::Noise`](crate::random::Stream::Noise) for these positions in the run, one a
    /// sample, drawn where the network is ([`add_noise`](crate::ops::noise::add_noise)).
    Drawn { seed: u64, positions: Vec<u64> },
}
