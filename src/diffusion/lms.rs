//! The linear multistep method of up to four derivatives in sigma (k-diffusion's `sample_lms`).

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler};
use super::schedule::NoiseSchedule;
use super::sigmas;
use crate::error::Result;
use crate::ops::{Combination, evaluate};
use crate::tensor::Tensor;

/// Derivatives that a step uses.
const ORDER: usize = 4;

pub(super) struct Lms {
    run: Run,
    /// The latest derivatives, newest first.
    derivatives: Vec<Tensor>,
}

impl Lms {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let levels = sigmas::spaced(&config, &sigmas::table(&schedule), steps)?;
        Ok(Self { run: Run::in_sigma(config, schedule, levels), derivatives: vec![] })
    }
}

/// The integrals from `nodes[0]` to `end` of the Lagrange polynomials of these nodes.
fn coefficients(nodes: &[f64], end: f64) -> Vec<f64> {
    let integral = |j: usize| {
        // Of tau - nodes[0], so that little cancels; ascending powers.
        let mut polynomial = vec![1.0];
        for (k, node) in nodes.iter().enumerate().filter(|(k, _)| *k != j) {
            let (root, scale) = (node - nodes[0], nodes[j] - nodes[k]);
            let mut next = vec![0.0; polynomial.len() + 1];
            for (power, c) in polynomial.iter().enumerate() {
                next[power + 1] += c / scale;
                next[power] -= c * root / scale;
            }
            polynomial = next;
        }
        let to = end - nodes[0];
        polynomial.iter().enumerate().map(|(power, c)| c * to.powi(power as i32 + 1) / (power + 1) as f64).sum()
    };
    (0..nodes.len()).map(integral).collect()
}

impl Sampler for Lms {
    fn run(&self) -> &Run {
        &self.run
    }

    fn level(&self, i: usize) -> Option<f64> {
        Some(self.run.sigmas[i])
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let (of_sample, of_output) = sigmas::derivative(self.run.config.prediction, self.run.sigmas[i]);
        let newest = Combination::sum(&[(of_sample, sample), (of_output, output)]);
        let mut derivatives = vec![newest];
        derivatives.extend(self.derivatives.iter().map(Combination::of));
        derivatives.truncate(ORDER);
        // As many nodes as derivatives, also where a run starts at a later step; diffusers takes the coefficients of four then.
        let nodes: Vec<f64> = (0..derivatives.len()).map(|k| self.run.sigmas[i - k]).collect();
        let mut terms = vec![(1.0, sample)];
        terms.extend(coefficients(&nodes, self.run.sigmas[i + 1]).into_iter().zip(&derivatives));
        let [next, newest] = evaluate([&Combination::sum(&terms), &derivatives[0]])?;
        self.derivatives.insert(0, newest);
        self.derivatives.truncate(ORDER - 1);
        Ok(next)
    }
}
