//! Euler's method that overshoots and puts noise back at every step (k-diffusion's `sample_euler_ancestral`).

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, required};
use super::schedule::NoiseSchedule;
use super::{sigmas, timesteps};
use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::Tensor;

pub(super) struct EulerAncestral {
    run: Run,
}

impl EulerAncestral {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let timesteps = timesteps::spaced(&config, steps, true)?;
        let table = sigmas::table(&schedule);
        let at = |&t: &f64| f64::from(sigmas::interpolate(&table, t) as f32);
        let sigmas = timesteps.iter().map(at).chain([0.0]).collect();
        Ok(Self { run: Run { config, schedule, timesteps, sigmas } })
    }
}

impl Sampler for EulerAncestral {
    fn run(&self) -> &Run {
        &self.run
    }

    fn level(&self, i: usize) -> Option<f64> {
        Some(self.run.sigmas[i])
    }

    fn needs_noise(&self, _i: usize) -> bool {
        true
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let (from, to) = (self.run.sigmas[i], self.run.sigmas[i + 1]);
        let (down, up) = sigmas::ancestral(from, to);
        let (of_sample, of_output) = sigmas::derivative(self.run.config.prediction, from);
        let dt = down - from;
        let noise = required(noise)?;
        Combination::sum(&[(1.0 + of_sample * dt, sample), (of_output * dt, output), (up, &noise)]).tensor()
    }
}
