//! DPM-Solver and DPM-Solver++, singlestep, orders 1 to 3 (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095). Each call of the
//! network counts as a step: a step of order 3 takes three, and steps anew from where its first one began.

use super::config::{SchedulerConfig, Spacing};
use super::dpm_solver::{Formulas, converted, stochastic};
use super::sampler::{Run, Sampler, required};
use super::schedule::NoiseSchedule;
use super::sigmas::{self, alpha_sigma};
use super::timesteps;
use crate::error::Result;
use crate::ops::{Combination, evaluate};
use crate::tensor::Tensor;

pub(super) struct DpmSinglestep {
    run: Run,
    orders: Vec<usize>,
    /// The latest images (noises for `dpmsolver`), newest first.
    outputs: Vec<Tensor>,
    /// Where the latest step of order 1 began.
    base: Option<Tensor>,
}

impl DpmSinglestep {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let table = sigmas::table(&schedule);
        let clipped = table.iter().filter(|s| -s.ln() < config.lambda_min_clipped).count();
        let config = SchedulerConfig { spacing: Spacing::Linspace, ..config };
        let spaced = timesteps::spaced_for_solver(&config, steps, (table.len() - clipped).max(1))?;
        let last = if config.final_sigma_is_min { table[0] } else { 0.0 };
        let levels = sigmas::for_solver(&config, &table, spaced, steps, last);
        let orders = orders(&config, steps);
        Ok(Self { run: Run::in_sigma(config, schedule, levels), orders, outputs: vec![], base: None })
    }
}

/// The order of each call. The last one is 1 where the last level is 0, or where lower orders at the end are asked for.
fn orders(config: &SchedulerConfig, steps: usize) -> Vec<usize> {
    let order = config.solver_order;
    let even = steps.is_multiple_of(order);
    let mut orders: Vec<usize> = (0..steps).map(|i| i % order + 1).collect();
    if !config.final_sigma_is_min || (config.lower_order_final && even) {
        orders[steps - 1] = 1;
    }
    orders
}

impl Sampler for DpmSinglestep {
    fn run(&self) -> &Run {
        &self.run
    }

    fn needs_noise(&self, _i: usize) -> bool {
        stochastic(&self.run.config)
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let noise = self.needs_noise(i).then(|| required(noise)).transpose()?;
        let mut m = vec![converted(&self.run.config, output, &Combination::of(sample), self.run.sigmas[i])?];
        m.extend(self.outputs.iter().map(Combination::of));
        // A run that starts at a later step has no earlier outputs yet.
        let order = self.orders[i].min(m.len());
        if order == 1 {
            self.base = Some(sample.clone());
        }
        let base = Combination::of(self.base.as_ref().unwrap_or(sample));
        let formulas = Formulas::new(&self.run.config, self.run.sigmas[i + 1 - order], self.run.sigmas[i + 1]);
        let Formulas { of_sample, scale, phi, heun, .. } = formulas;
        let lambda = |i: usize| -self.run.sigmas[i].ln();
        let h = lambda(i + 1) - lambda(i + 1 - order);
        let mut terms = vec![(of_sample, &base), (-scale * phi, &m[order - 1])];
        let by_heun = self.run.config.solver_type == "heun";
        match order {
            1 => {}
            2 => {
                let r0 = (lambda(i) - lambda(i - 1)) / h;
                let d1 = if by_heun { heun } else { -0.5 * scale * phi } / r0;
                terms.extend([(d1, &m[0]), (-d1, &m[1])]);
            }
            _ => {
                let r0 = (lambda(i) - lambda(i - 2)) / h;
                let r1 = (lambda(i - 1) - lambda(i - 2)) / h;
                // Of the divided differences (m1 - m2) / r1 and (m0 - m2) / r0.
                let (near, far) = if by_heun {
                    let d2 = 2.0 * formulas.second(&self.run.config) / (r0 - r1);
                    (heun * r0 / (r0 - r1) - d2, -heun * r1 / (r0 - r1) + d2)
                } else {
                    (0.0, heun)
                };
                terms.extend([(far / r0, &m[0]), (near / r1, &m[1]), (-far / r0 - near / r1, &m[2])]);
            }
        }
        let (_, sigma_t) = alpha_sigma(self.run.sigmas[i + 1]);
        let of_noise = sigma_t * (-(-2.0 * h).exp_m1()).sqrt();
        terms.extend(noise.as_ref().map(|noise| (of_noise, noise)));
        let [next, newest] = evaluate([&Combination::sum(&terms), &m[0]])?;
        self.outputs.insert(0, newest);
        self.outputs.truncate(self.run.config.solver_order);
        Ok(next)
    }
}
