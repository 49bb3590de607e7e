//! DPM-Solver++ of order 2 for the stochastic equation, in sigma (k-diffusion's `sample_dpmpp_sde`): two calls of the network a
//! step, the second one half-way in log sigma.

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, required};
use super::schedule::NoiseSchedule;
use super::sigmas;
use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::Tensor;

pub(super) struct DpmSde {
    /// Levels as diffusers lists them: all but the first and the last are there twice.
    run: Run,
    /// One a step, and a last one of 0.
    levels: Vec<f64>,
    /// The sample before the step whose second call follows, and the noise of its first one.
    first: Option<(Tensor, Tensor)>,
}

impl DpmSde {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let table = sigmas::table(&schedule);
        let levels = sigmas::spaced(&config, &table, steps)?;
        let n = levels.timesteps.len();
        let at = |i: usize| match i % 2 {
            0 => levels.timesteps[i / 2],
            _ => sigmas::timestep(&table, middle(&levels.sigmas, i / 2)),
        };
        let timesteps = (0..2 * n - 1).map(at).collect();
        let listed = (0..2 * n).map(|i| levels.sigmas[i.div_ceil(2)]).collect();
        Ok(Self { run: Run { config, schedule, timesteps, sigmas: listed }, levels: levels.sigmas, first: None })
    }

    /// The level of call `i`.
    fn of_call(&self, i: usize) -> f64 {
        if i.is_multiple_of(2) { self.levels[i / 2] } else { middle(&self.levels, i / 2) }
    }
}

/// Half-way between two levels.
fn middle(levels: &[f64], step: usize) -> f64 {
    (levels[step] * levels[step + 1]).sqrt()
}

impl Sampler for DpmSde {
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
        i + 1 < self.run.timesteps.len()
    }

    /// The noise of both calls is one Brownian path over sigma: the first call sees its upper part, the second all of it, which
    /// is the upper part and the fresh noise of the lower one. diffusers cuts such a path out of a tree.
    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let x = Combination::of(sample);
        let (of_sample, of_output) = sigmas::image(self.run.config.prediction, self.of_call(i));
        if !self.needs_noise(i) {
            return Combination::sum(&[(of_sample, &x), (of_output, output)]).tensor();
        }
        let fresh = required(noise)?;
        let (from, next) = (self.levels[i / 2], self.levels[i / 2 + 1]);
        let half = middle(&self.levels, i / 2);
        let ((from_sample, of_fresh), earlier, to) = match self.first.take() {
            None => ((x.clone(), 1.0), None, half),
            Some((before, noise)) => {
                let share = |part: f64| (part / (from - next)).sqrt();
                let earlier = (share(from - half), Combination::of(&noise));
                ((Combination::of(&before), share(half - next)), Some(earlier), next)
            }
        };
        let (down, up) = sigmas::ancestral(from, to);
        let of_image = -(down / from - 1.0);
        let mut terms = vec![
            (down / from, &from_sample),
            (of_image * of_sample, &x),
            (of_image * of_output, output),
            (up * of_fresh, &fresh),
        ];
        terms.extend(earlier.as_ref().map(|(share, noise)| (up * share, noise)));
        let next = Combination::sum(&terms).tensor()?;
        if earlier.is_none()
            && let Some(noise) = noise
        {
            self.first = Some((sample.clone(), noise.clone()));
        }
        Ok(next)
    }
}
