//! Latent consistency models (Luo et al. 2023, arXiv:2310.04378).

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, confine, required};
use super::schedule::NoiseSchedule;
use super::timesteps;
use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::Tensor;

/// The spread of the data, squared.
const SIGMA_DATA_SQUARED: f64 = 0.25;

pub(super) struct Lcm {
    run: Run,
}

impl Lcm {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let timesteps = timesteps::lcm(&config, steps)?;
        Ok(Self { run: Run { config, schedule, timesteps, sigmas: vec![] } })
    }
}

impl Sampler for Lcm {
    fn run(&self) -> &Run {
        &self.run
    }

    fn needs_noise(&self, i: usize) -> bool {
        i + 1 < self.run.timesteps.len()
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let table = &self.run.schedule.alphas_cumprod;
        let t = self.run.timesteps[i];
        let a = table[t as usize];
        let image = self.run.config.prediction.image(output, sample, a.sqrt(), (1.0 - a).sqrt());
        let image = confine(&self.run.config, image)?;
        let s = t * self.run.config.timestep_scaling;
        let skip = SIGMA_DATA_SQUARED / (s * s + SIGMA_DATA_SQUARED);
        let out = s / (s * s + SIGMA_DATA_SQUARED).sqrt();
        if !self.needs_noise(i) {
            return Combination::sum(&[(out, &image), (skip, sample)]).tensor();
        }
        let next = table[self.run.timesteps[i + 1] as usize];
        let (keep, fresh) = (next.sqrt(), (1.0 - next).sqrt());
        let noise = required(noise)?;
        Combination::sum(&[(keep * out, &image), (keep * skip, sample), (fresh, &noise)]).tensor()
    }
}
