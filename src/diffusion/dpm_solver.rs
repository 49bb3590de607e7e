//! DPM-Solver and DPM-Solver++, multistep, orders 1 to 3 (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095), and
//! the stochastic form of the latter.

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, required, threshold};
use super::schedule::NoiseSchedule;
use super::sigmas::{self, alpha_sigma};
use super::timesteps;
use crate::error::Result;
use crate::ops::{Combination, evaluate};
use crate::tensor::Tensor;

pub(super) struct DpmSolver {
    run: Run,
    /// The latest images (noises for `dpmsolver`), newest first, at most `solver_order`.
    outputs: Vec<Tensor>,
}

impl DpmSolver {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let table = sigmas::table(&schedule);
        let clipped = table.iter().filter(|s| -s.ln() < config.lambda_min_clipped).count();
        let spaced = timesteps::spaced_for_solver(&config, steps, (table.len() - clipped).max(1))?;
        let last = if config.final_sigma_is_min { table[0] } else { 0.0 };
        let levels = sigmas::for_solver(&config, &table, spaced, steps, last);
        Ok(Self { run: Run::in_sigma(config, schedule, levels), outputs: vec![] })
    }

    fn highest_order(&self, i: usize) -> usize {
        let n = self.run.timesteps.len();
        let careful = self.run.config.lower_order_final && n < 15;
        let at_last = self.run.config.euler_at_final || careful || !self.run.config.final_sigma_is_min;
        match i + 1 {
            last if last == n && at_last => 1,
            second if second + 1 == n && careful => 2,
            _ => 3,
        }
    }
}

pub(super) fn stochastic(config: &SchedulerConfig) -> bool {
    config.algorithm_type == "sde-dpmsolver++"
}

/// What a step is made of: the noise of `sample` at the level `sigma` for `dpmsolver`, else the image.
pub(super) fn converted(
    config: &SchedulerConfig,
    output: &Combination,
    sample: &Combination,
    sigma: f64,
) -> Result<Combination> {
    let (alpha, sigma) = alpha_sigma(sigma);
    if config.algorithm_type == "dpmsolver" {
        return Ok(config.prediction.noise(output, sample, alpha, sigma));
    }
    let image = config.prediction.image(output, sample, alpha, sigma);
    if config.thresholding { threshold(config, &image) } else { Ok(image) }
}

/// One set of formulas for `dpmsolver`, `dpmsolver++` and its stochastic form, of a step from one level to another.
pub(super) struct Formulas {
    pub of_sample: f64,
    /// What the outputs are scaled by.
    pub scale: f64,
    /// The exponent, and its exponential less 1.
    pub e: f64,
    pub phi: f64,
    /// Of the first divided difference, with the solver type `heun`.
    pub heun: f64,
}

impl Formulas {
    pub(super) fn new(config: &SchedulerConfig, from: f64, to: f64) -> Self {
        let (alpha_s, sigma_s) = alpha_sigma(from);
        let (alpha_t, sigma_t) = alpha_sigma(to);
        let h = from.ln() - to.ln();
        let (of_sample, scale, e) = if config.algorithm_type == "dpmsolver" {
            (alpha_t / alpha_s, sigma_t, h)
        } else if stochastic(config) {
            (sigma_t / sigma_s * (-h).exp(), alpha_t, -2.0 * h)
        } else {
            (sigma_t / sigma_s, alpha_t, -h)
        };
        let phi = e.exp_m1();
        Self { of_sample, scale, e, phi, heun: -scale * (phi / e - 1.0) }
    }

    /// Of the second divided difference. The reference's stochastic form has the other sign here.
    pub(super) fn second(&self, config: &SchedulerConfig) -> f64 {
        let half = if stochastic(config) { 0.5 } else { -0.5 };
        -self.scale * ((self.phi - self.e) / (self.e * self.e) + half)
    }
}

impl Sampler for DpmSolver {
    fn run(&self) -> &Run {
        &self.run
    }

    fn needs_noise(&self, _i: usize) -> bool {
        stochastic(&self.run.config)
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let (_, sigma_t) = alpha_sigma(self.run.sigmas[i + 1]);
        let mut outputs = vec![converted(&self.run.config, output, sample, self.run.sigmas[i])?];
        outputs.extend(self.outputs.iter().map(Combination::of));
        outputs.truncate(self.run.config.solver_order);

        let lambda = |i: usize| -self.run.sigmas[i].ln();
        let h = lambda(i + 1) - lambda(i);
        let formulas = Formulas::new(&self.run.config, self.run.sigmas[i], self.run.sigmas[i + 1]);
        let Formulas { of_sample, scale, phi, heun, .. } = formulas;
        let mut terms = vec![(of_sample, sample)];
        let noise = self.needs_noise(i).then(|| required(noise)).transpose()?;
        match outputs.len().min(self.highest_order(i)) {
            1 => terms.push((-scale * phi, &outputs[0])),
            2 => {
                let d1 = if self.run.config.solver_type == "heun" { heun } else { -0.5 * scale * phi };
                let d1 = d1 * h / (lambda(i) - lambda(i - 1));
                terms.extend([(-scale * phi + d1, &outputs[0]), (-d1, &outputs[1])]);
            }
            _ => {
                let r0 = (lambda(i) - lambda(i - 1)) / h;
                let r1 = (lambda(i - 1) - lambda(i - 2)) / h;
                let d2 = formulas.second(&self.run.config);
                // Of the divided differences (m0 - m1) / r0 and (m1 - m2) / r1.
                let near = heun * (1.0 + r0 / (r0 + r1)) + d2 / (r0 + r1);
                let far = -(heun * r0 / (r0 + r1) + d2 / (r0 + r1));
                terms.extend([
                    (-scale * phi + near / r0, &outputs[0]),
                    (-near / r0 + far / r1, &outputs[1]),
                    (-far / r1, &outputs[2]),
                ]);
            }
        }
        let of_noise = sigma_t * (-(-2.0 * h).exp_m1()).sqrt();
        terms.extend(noise.as_ref().map(|noise| (of_noise, noise)));
        let [next, output] = evaluate([&Combination::sum(&terms), &outputs[0]])?;
        self.outputs.insert(0, output);
        self.outputs.truncate(self.run.config.solver_order);
        Ok(next)
    }
}
