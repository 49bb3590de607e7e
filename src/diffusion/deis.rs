//! DEIS: exponential integrators over log rho, multistep, orders 1 to 3 (Zhang & Chen 2022, arXiv:2204.13902).

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, threshold};
use super::schedule::NoiseSchedule;
use super::sigmas::{self, alpha_sigma};
use super::timesteps;
use crate::error::Result;
use crate::ops::{Combination, evaluate};
use crate::tensor::Tensor;

pub(super) struct Deis {
    /// Its last level is the least of the schedule, not 0.
    run: Run,
    /// The latest noises, newest first.
    outputs: Vec<Tensor>,
}

impl Deis {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let table = sigmas::table(&schedule);
        let spaced = timesteps::spaced_for_solver(&config, steps, table.len())?;
        let levels = sigmas::for_solver(&config, &table, spaced, steps, table[0]);
        Ok(Self { run: Run::in_sigma(config, schedule, levels), outputs: vec![] })
    }

    fn highest_order(&self, i: usize) -> usize {
        let n = self.run.timesteps.len();
        match n - i {
            left @ 1..=2 if self.run.config.lower_order_final && n < 15 => left,
            _ => 3,
        }
    }
}

/// The antiderivative at `t` of the Lagrange polynomial in log rho that is 1 at `own` and 0 at `others`.
fn antiderivative(t: f64, own: f64, others: &[f64]) -> f64 {
    let (log, b) = (t.ln(), own.ln());
    match others.iter().map(|x| x.ln()).collect::<Vec<_>>()[..] {
        [] => t,
        [c] => t * (log - c - 1.0) / (b - c),
        [c, d, ..] => t * (c * (d - log + 1.0) - d * log + d + log * log - 2.0 * log + 2.0) / ((b - c) * (b - d)),
    }
}

impl Sampler for Deis {
    fn run(&self) -> &Run {
        &self.run
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let (alpha_s, sigma_s) = alpha_sigma(self.run.sigmas[i]);
        let (alpha_t, _) = alpha_sigma(self.run.sigmas[i + 1]);
        let newest = if self.run.config.thresholding {
            let image = self.run.config.prediction.image(output, sample, alpha_s, sigma_s);
            let image = threshold(&self.run.config, &image)?;
            Combination::sum(&[(1.0 / sigma_s, sample), (-alpha_s / sigma_s, &image)])
        } else {
            self.run.config.prediction.noise(output, sample, alpha_s, sigma_s)
        };
        let mut outputs = vec![newest];
        outputs.extend(self.outputs.iter().map(Combination::of));
        let order = outputs.len().min(self.run.config.solver_order).min(self.highest_order(i));
        // rho is sigma / alpha: the noise level in units of the image.
        let nodes: Vec<f64> = (0..order).map(|k| self.run.sigmas[i - k]).collect();
        let mut terms = vec![(alpha_t / alpha_s, sample)];
        for (k, output) in outputs.iter().enumerate().take(order) {
            let others: Vec<f64> = nodes.iter().enumerate().filter(|(j, _)| *j != k).map(|(_, rho)| *rho).collect();
            let at = |t: f64| antiderivative(t, nodes[k], &others);
            terms.push((alpha_t * (at(self.run.sigmas[i + 1]) - at(self.run.sigmas[i])), output));
        }
        let [next, newest] = evaluate([&Combination::sum(&terms), &outputs[0]])?;
        self.outputs.insert(0, newest);
        self.outputs.truncate(self.run.config.solver_order);
        Ok(next)
    }
}
