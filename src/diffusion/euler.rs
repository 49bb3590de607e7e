//! Euler's method in sigma (Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn).

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler};
use super::schedule::NoiseSchedule;
use super::sigmas::{self, Levels};
use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::Tensor;

pub(super) struct Euler {
    run: Run,
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
        Ok(Self { run: Run { config, schedule, timesteps, sigmas } })
    }
}

impl Sampler for Euler {
    fn run(&self) -> &Run {
        &self.run
    }

    fn level(&self, i: usize) -> Option<f64> {
        Some(self.run.sigmas[i])
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let (of_sample, of_output) = sigmas::derivative(self.run.config.prediction, self.run.sigmas[i]);
        let dt = self.run.sigmas[i + 1] - self.run.sigmas[i];
        Combination::sum(&[(1.0 + of_sample * dt, sample), (of_output * dt, output)]).tensor()
    }
}
