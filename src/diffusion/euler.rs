//! Euler's method in sigma (Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn).

use super::config::SchedulerConfig;
use super::sampler::Sampler;
use super::schedule::NoiseSchedule;
use super::sigmas::{self, Levels};
use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::Tensor;

pub(super) struct Euler {
    config: SchedulerConfig,
    schedule: NoiseSchedule,
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
}

impl Euler {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let table = sigmas::table(&schedule);
        let Levels { mut sigmas, timesteps } = sigmas::spaced(&config, &table, steps)?;
        if let Some(last) = sigmas.last_mut()
            && config.final_sigma_is_min
        {
            *last = table[0];
        }
        Ok(Self { config, schedule, timesteps, sigmas })
    }
}

impl Sampler for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
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
        let sample = &Combination::of(sample);
        let (of_sample, of_output) = sigmas::derivative(self.config.prediction, self.sigmas[i]);
        let dt = self.sigmas[i + 1] - self.sigmas[i];
        Combination::sum(&[(1.0 + of_sample * dt, sample), (of_output * dt, output)]).tensor()
    }
}
