//! DPM-Solver-2 in sigma, and its form that puts noise back (k-diffusion's `sample_dpm_2` and `sample_dpm_2_ancestral`): two calls
//! of the network a step, the second one half-way in log sigma.

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, required};
use super::schedule::NoiseSchedule;
use super::sigmas;
use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::Tensor;

pub(super) struct Kdpm2 {
    /// Levels as diffusers lists them: each twice.
    run: Run,
    ancestral: bool,
    steps: Vec<Step>,
    /// The sample before the step whose second call follows.
    before: Option<Tensor>,
}

/// Levels of one step: where it begins, its middle, where the derivative of the middle leads, the noise put back there.
struct Step {
    from: f64,
    middle: f64,
    to: f64,
    up: f64,
}

impl Kdpm2 {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize, ancestral: bool) -> Result<Self> {
        let table = sigmas::table(&schedule);
        let mut levels = sigmas::spaced(&config, &table, steps)?;
        if config.use_karras_sigmas {
            levels.timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
        }
        let n = levels.timesteps.len();
        let of_step = |k: usize| {
            let (from, next) = (levels.sigmas[k], levels.sigmas[k + 1]);
            let (to, up) = if ancestral { sigmas::ancestral(from, next) } else { (next, 0.0) };
            Step { from, middle: (from * to).sqrt(), to, up }
        };
        let steps: Vec<Step> = (0..n).map(of_step).collect();
        let at = |i: usize| match i % 2 {
            0 => levels.timesteps[i / 2],
            _ => sigmas::timestep(&table, steps[i / 2].middle),
        };
        let timesteps = (0..2 * n - 1).map(at).collect();
        let listed = (0..2 * n + 2).map(|i| levels.sigmas[i.div_ceil(2).min(n)]).collect();
        Ok(Self { run: Run { config, schedule, timesteps, sigmas: listed }, ancestral, steps, before: None })
    }

    /// The level of call `i`.
    fn of_call(&self, i: usize) -> f64 {
        let step = &self.steps[i / 2];
        if i.is_multiple_of(2) { step.from } else { step.middle }
    }
}

impl Sampler for Kdpm2 {
    fn run(&self) -> &Run {
        &self.run
    }

    fn order(&self) -> usize {
        2
    }

    fn level(&self, i: usize) -> Option<f64> {
        Some(self.of_call(i))
    }

    fn needs_noise(&self, i: usize) -> bool {
        self.ancestral && i % 2 == 1
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let noise = self.needs_noise(i).then(|| required(noise)).transpose()?;
        let step = &self.steps[i / 2];
        let x = Combination::of(sample);
        let (of_sample, of_output) = sigmas::derivative(self.run.config.prediction, self.of_call(i));
        let Some(before) = self.before.take() else {
            let dt = step.middle - step.from;
            // The last step ends at 0 and has no middle.
            self.before = Some(sample.clone());
            return Combination::sum(&[(1.0 + of_sample * dt, &x), (of_output * dt, output)]).tensor();
        };
        let dt = step.to - step.from;
        let before = Combination::of(&before);
        let mut terms = vec![(1.0, &before), (of_sample * dt, &x), (of_output * dt, output)];
        terms.extend(noise.as_ref().map(|noise| (step.up, noise)));
        Combination::sum(&terms).tensor()
    }
}
