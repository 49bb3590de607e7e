//! Trajectory consistency distillation (Zheng et al. 2024, arXiv:2402.19159, algorithm 4): eta is the paper's gamma.

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, required};
use super::schedule::NoiseSchedule;
use super::timesteps;
use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::Tensor;

pub(super) struct Tcd {
    run: Run,
    eta: f64,
}

impl Tcd {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let timesteps = timesteps::lcm(&config, steps)?;
        // What diffusers' class and the paper's figures take.
        Ok(Self { run: Run { config, schedule, timesteps, sigmas: vec![] }, eta: 0.3 })
    }
}

impl Sampler for Tcd {
    fn run(&self) -> &Run {
        &self.run
    }

    fn set_eta(&mut self, eta: f64) {
        self.eta = eta;
    }

    fn needs_noise(&self, i: usize) -> bool {
        self.eta > 0.0 && i + 1 < self.run.timesteps.len()
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let table = &self.run.schedule.alphas_cumprod;
        let previous = self.run.timesteps.get(i + 1).copied().unwrap_or(0.0);
        // In f32 as the reference has it, which decides where the product is a whole number.
        let s = ((1.0 - self.eta) as f32 * previous as f32).floor() as usize;
        let (now, previous, s) = (table[self.run.timesteps[i] as usize], table[previous as usize], table[s]);
        let prediction = self.run.config.prediction;
        let image = prediction.image(output, sample, now.sqrt(), (1.0 - now).sqrt());
        let direction = prediction.noise(output, sample, now.sqrt(), (1.0 - now).sqrt());
        if !self.needs_noise(i) {
            return Combination::sum(&[(s.sqrt(), &image), ((1.0 - s).sqrt(), &direction)]).tensor();
        }
        let (kept, fresh) = ((previous / s).sqrt(), (1.0 - previous / s).max(0.0).sqrt());
        let noise = required(noise)?;
        let terms = [(kept * s.sqrt(), &image), (kept * (1.0 - s).sqrt(), &direction), (fresh, &noise)];
        Combination::sum(&terms).tensor()
    }
}
