//! Heun's method in sigma (Karras et al. 2022, arXiv:2206.00364, algorithm 1 without churn): two calls of the network a step.

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler};
use super::schedule::NoiseSchedule;
use super::sigmas;
use crate::error::Result;
use crate::ops::{Combination, evaluate};
use crate::tensor::Tensor;

pub(super) struct Heun {
    /// A level for each call: all but the first and the last are there twice.
    run: Run,
    /// The sample and the derivative of the step's first call.
    first: Option<(Tensor, Tensor)>,
}

impl Heun {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let levels = sigmas::spaced(&config, &sigmas::table(&schedule), steps)?;
        let n = levels.timesteps.len();
        let timesteps = (0..2 * n - 1).map(|i| levels.timesteps[i.div_ceil(2)]).collect();
        let sigmas = (0..2 * n).map(|i| levels.sigmas[i.div_ceil(2)]).collect();
        Ok(Self { run: Run { config, schedule, timesteps, sigmas }, first: None })
    }
}

impl Sampler for Heun {
    fn run(&self) -> &Run {
        &self.run
    }

    fn order(&self) -> usize {
        2
    }

    fn level(&self, i: usize) -> Option<f64> {
        Some(self.run.sigmas[i])
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let x = Combination::of(sample);
        let sigma = self.run.sigmas[i];
        let derivative = if self.run.config.clip_sample {
            let (of_sample, of_output) = sigmas::image(self.run.config.prediction, sigma);
            let image = Combination::sum(&[(of_sample, &x), (of_output, output)]);
            let image = image.limited(self.run.config.clip_sample_range);
            Combination::sum(&[(1.0 / sigma, &x), (-1.0 / sigma, &image)])
        } else {
            let (of_sample, of_output) = sigmas::derivative(self.run.config.prediction, sigma);
            Combination::sum(&[(of_sample, &x), (of_output, output)])
        };
        if let Some((from, first)) = self.first.take() {
            let half = (sigma - self.run.sigmas[i - 1]) / 2.0;
            let (from, first) = (Combination::of(&from), Combination::of(&first));
            return Combination::sum(&[(1.0, &from), (half, &first), (half, &derivative)]).tensor();
        }
        let next = Combination::sum(&[(1.0, &x), (self.run.sigmas[i + 1] - sigma, &derivative)]);
        let [next, derivative] = evaluate([&next, &derivative])?;
        self.first = Some((sample.clone(), derivative));
        Ok(next)
    }
}
