//! Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, equations 6 and 7).

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, confine, required};
use super::schedule::NoiseSchedule;
use super::timesteps;
use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::Tensor;

pub(super) struct Ddpm {
    run: Run,
}

impl Ddpm {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let timesteps = timesteps::spaced(&config, steps, false)?;
        Ok(Self { run: Run { config, schedule, timesteps, sigmas: vec![] } })
    }
}

impl Sampler for Ddpm {
    fn run(&self) -> &Run {
        &self.run
    }

    fn needs_noise(&self, i: usize) -> bool {
        self.run.timesteps[i] > 0.0
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let table = &self.run.schedule.alphas_cumprod;
        let a = table[self.run.timesteps[i] as usize];
        let previous = self.run.timesteps.get(i + 1).map_or(1.0, |&t| table[t as usize]);
        let (step_alpha, step_beta) = (a / previous, 1.0 - a / previous);
        let image = self.run.config.prediction.image(output, sample, a.sqrt(), (1.0 - a).sqrt());
        let image = confine(&self.run.config, image)?;
        let variance = if self.run.config.variance_type == "fixed_large" {
            step_beta
        } else {
            ((1.0 - previous) / (1.0 - a) * step_beta).max(1e-20)
        };
        let noise = self.needs_noise(i).then(|| required(noise)).transpose()?;
        let mut terms = vec![
            (previous.sqrt() * step_beta / (1.0 - a), &image),
            (step_alpha.sqrt() * (1.0 - previous) / (1.0 - a), sample),
        ];
        terms.extend(noise.as_ref().map(|noise| (variance.sqrt(), noise)));
        Combination::sum(&terms).tensor()
    }
}
