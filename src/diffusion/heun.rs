//! Heun's method in sigma (Karras et al. 2022, arXiv:2206.00364, algorithm 1 without churn): two calls of the network a step.

use super::config::SchedulerConfig;
use super::sampler::Sampler;
use super::schedule::NoiseSchedule;
use super::sigmas;
use crate::error::Result;
use crate::ops::{Combination, evaluate};
use crate::tensor::Tensor;

pub(super) struct Heun {
    config: SchedulerConfig,
    schedule: NoiseSchedule,
    timesteps: Vec<f64>,
    /// One for each call: all but the first and the last are there twice.
    sigmas: Vec<f64>,
    /// The sample and the derivative of the step's first call.
    first: Option<(Tensor, Tensor)>,
}

impl Heun {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let levels = sigmas::spaced(&config, &sigmas::table(&schedule), steps)?;
        let n = levels.timesteps.len();
        let timesteps = (0..2 * n - 1).map(|i| levels.timesteps[i.div_ceil(2)]).collect();
        let sigmas = (0..2 * n).map(|i| levels.sigmas[i.div_ceil(2)]).collect();
        Ok(Self { config, schedule, timesteps, sigmas, first: None })
    }
}

impl Sampler for Heun {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn order(&self) -> usize {
        2
    }

    fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    fn init_noise_sigma(&self) -> f64 {
        sigmas::init_noise_sigma(&self.config, &self.sigmas)
    }

    fn level(&self, i: usize) -> Option<f64> {
        Some(self.sigmas[i])
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let x = Combination::of(sample);
        let sigma = self.sigmas[i];
        let derivative = if self.config.clip_sample {
            let (of_sample, of_output) = sigmas::image(self.config.prediction, sigma);
            let image = Combination::sum(&[(of_sample, &x), (of_output, output)]);
            let image = image.limited(self.config.clip_sample_range);
            Combination::sum(&[(1.0 / sigma, &x), (-1.0 / sigma, &image)])
        } else {
            let (of_sample, of_output) = sigmas::derivative(self.config.prediction, sigma);
            Combination::sum(&[(of_sample, &x), (of_output, output)])
        };
        if let Some((from, first)) = self.first.take() {
            let half = (sigma - self.sigmas[i - 1]) / 2.0;
            let (from, first) = (Combination::of(&from), Combination::of(&first));
            return Combination::sum(&[(1.0, &from), (half, &first), (half, &derivative)]).tensor();
        }
        let next = Combination::sum(&[(1.0, &x), (self.sigmas[i + 1] - sigma, &derivative)]);
        let [next, derivative] = evaluate([&next, &derivative])?;
        self.first = Some((sample.clone(), derivative));
        Ok(next)
    }
}
