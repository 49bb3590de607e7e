//! What the network predicts, and the way from there to the clean image and to the noise.

use super::schedule::NoiseSchedule;
use crate::error::{Error, Result};
use crate::ops::Combination;
use crate::tensor::Tensor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The clean image.
    Sample,
    /// `alpha * noise - sigma * image` (Salimans & Ho 2022, arXiv:2202.00512).
    V,
}

impl Prediction {
    /// Reads diffusers' `prediction_type`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for another name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "epsilon" => Ok(Prediction::Epsilon),
            "sample" | "original_sample" => Ok(Prediction::Sample),
            "v_prediction" => Ok(Prediction::V),
            other => Err(Error::Unavailable(format!("scheduler config: prediction_type = {other:?}"))),
        }
    }

    /// The clean image of `x = alpha * image + sigma * noise`, given the network's output for it.
    pub fn image(self, output: &Combination, x: &Combination, alpha: f64, sigma: f64) -> Combination {
        match self {
            Prediction::Epsilon => Combination::sum(&[(1.0 / alpha, x), (-sigma / alpha, output)]),
            Prediction::Sample => output.clone(),
            Prediction::V => Combination::sum(&[(alpha, x), (-sigma, output)]),
        }
    }

    /// The noise of `x = alpha * image + sigma * noise`, given the network's output for it.
    pub fn noise(self, output: &Combination, x: &Combination, alpha: f64, sigma: f64) -> Combination {
        match self {
            Prediction::Epsilon => output.clone(),
            Prediction::Sample => Combination::sum(&[(1.0 / sigma, x), (-alpha / sigma, output)]),
            Prediction::V => Combination::sum(&[(alpha, output), (sigma, x)]),
        }
    }

    /// What the network is trained towards: `[n, ..]` like `image` and `noise`, one timestep a sample.
    ///
    /// # Errors
    /// As [`NoiseSchedule::velocity`].
    pub fn target(
        self,
        schedule: &NoiseSchedule,
        image: &Tensor,
        noise: &Tensor,
        timesteps: &[usize],
    ) -> Result<Tensor> {
        match self {
            Prediction::Epsilon => Ok(noise.clone()),
            Prediction::Sample => Ok(image.clone()),
            Prediction::V => schedule.velocity(image, noise, timesteps),
        }
    }
}
