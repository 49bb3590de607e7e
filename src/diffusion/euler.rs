//! Euler's method in sigma (Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn).

use super::config::SchedulerConfig;
use super::sampler::Sampler;
use super::schedule::NoiseSchedule;
use super::{sigmas, timesteps};
use crate::error::Result;
use crate::ops::{self, Combination};
use crate::tensor::Tensor;

pub(super) struct Euler {
    config: SchedulerConfig,
    schedule: NoiseSchedule,
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
}

impl Euler {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let mut timesteps = timesteps::spaced(&config, steps, true)?;
        let table = sigmas::table(&schedule);
        let (least, most) = (table[0], table[table.len() - 1]);
        let mut levels: Vec<f64> = if config.interpolation_type == "log_linear" {
            sigmas::exponential(most, least, steps + 1)
        } else {
            timesteps.iter().map(|&t| sigmas::interpolate(&table, t)).collect()
        };
        if config.use_karras_sigmas || config.use_exponential_sigmas {
            let (max, min) = (levels[0], levels[levels.len() - 1]);
            let respace = if config.use_karras_sigmas { sigmas::karras } else { sigmas::exponential };
            levels = respace(max, min, steps);
            timesteps = levels.iter().map(|&s| f64::from(sigmas::timestep(&table, s) as f32)).collect();
        }
        levels.push(if config.final_sigma_is_min { least } else { 0.0 });
        let sigmas = levels.into_iter().map(|s| f64::from(s as f32)).collect();
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

    fn scale_model_input(&self, i: usize, sample: &Tensor) -> Result<Tensor> {
        ops::combine(&[(sigmas::input_scale(self.sigmas[i]), sample)])
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let (of_sample, of_output) = sigmas::derivative(self.config.prediction, self.sigmas[i]);
        let dt = self.sigmas[i + 1] - self.sigmas[i];
        Combination::sum(&[(1.0 + of_sample * dt, sample), (of_output * dt, output)]).tensor()
    }

    fn add_noise_at(&self, i: usize, image: &Tensor, noise: &Tensor) -> Result<Tensor> {
        ops::combine(&[(1.0, image), (self.sigmas[i], noise)])
    }
}
