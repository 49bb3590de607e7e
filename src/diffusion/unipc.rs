//! UniPC: a predictor, and a corrector that reuses its evaluations (Zhao et al. 2023, arXiv:2302.04867).

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, threshold};
use super::schedule::NoiseSchedule;
use super::sigmas::{self, alpha_sigma};
use super::timesteps;
use crate::error::Result;
use crate::ops::{Combination, evaluate};
use crate::tensor::Tensor;

pub(super) struct UniPc {
    run: Run,
    /// The latest images (noises without `predict_x0`), newest first.
    outputs: Vec<Tensor>,
    /// The sample and the order of the previous step, for the corrector.
    last: Option<(Tensor, usize)>,
}

impl UniPc {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let table = sigmas::table(&schedule);
        let spaced = timesteps::spaced_for_solver(&config, steps, table.len())?;
        let last = if config.final_sigma_is_min { table[0] } else { 0.0 };
        let levels = sigmas::for_solver(&config, &table, spaced, steps, last);
        Ok(Self { run: Run::in_sigma(config, schedule, levels), outputs: vec![], last: None })
    }

    /// From `sample` at level `i` to level `i + 1`, with the `outputs` at level `i`, `i - 1` and so on. With `corrected`,
    /// the output at level `i + 1`, this is the corrector, else the predictor.
    fn advance(
        &self,
        i: usize,
        sample: &Combination,
        outputs: &[Combination],
        order: usize,
        corrected: Option<&Combination>,
    ) -> Combination {
        let (alpha_s, sigma_s) = alpha_sigma(self.run.sigmas[i]);
        let (alpha_t, sigma_t) = alpha_sigma(self.run.sigmas[i + 1]);
        let lambda = |i: usize| -self.run.sigmas[i].ln();
        let h = lambda(i + 1) - lambda(i);
        let (of_sample, scale, e) =
            if self.run.config.predict_x0 { (sigma_t / sigma_s, alpha_t, -h) } else { (alpha_t / alpha_s, sigma_t, h) };
        let phi = e.exp_m1();
        let b_h = if self.run.config.solver_type == "bh1" { e } else { phi };
        let mut ratios: Vec<f64> = (1..order).map(|k| (lambda(i - k) - lambda(i)) / h).collect();
        let weights = match (order, corrected) {
            (1, None) => vec![],
            (2, None) | (1, Some(_)) => vec![0.5],
            (_, None) => solve(&ratios, e, b_h),
            (_, Some(_)) => {
                ratios.push(1.0);
                solve(&ratios, e, b_h)
            }
        };
        let mut of_newest = -scale * phi;
        let mut terms = vec![(of_sample, sample)];
        for k in 1..order {
            let w = -scale * b_h * weights[k - 1] / ratios[k - 1];
            terms.push((w, &outputs[k]));
            of_newest -= w;
        }
        if let Some(output) = corrected {
            let w = -scale * b_h * weights[order - 1];
            terms.push((w, output));
            of_newest -= w;
        }
        terms.push((of_newest, &outputs[0]));
        Combination::sum(&terms)
    }
}

/// The weights that match the solver's expansion: a Vandermonde system in `ratios`, as large as they are many.
fn solve(ratios: &[f64], e: f64, b_h: f64) -> Vec<f64> {
    let n = ratios.len();
    let mut phi = e.exp_m1() / e - 1.0;
    let mut factorial = 1.0;
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(n);
    for k in 0..n {
        let mut row: Vec<f64> = ratios.iter().map(|r| r.powi(k as i32)).collect();
        row.push(phi * factorial / b_h);
        rows.push(row);
        factorial *= (k + 2) as f64;
        phi = phi / e - 1.0 / factorial;
    }
    // Gauss-Jordan: at most 3 by 3.
    for k in 0..n {
        let pivot = (k..n).max_by(|&a, &b| rows[a][k].abs().total_cmp(&rows[b][k].abs())).unwrap_or(k);
        rows.swap(k, pivot);
        let lead = rows[k].clone();
        for (j, row) in rows.iter_mut().enumerate() {
            if j != k {
                let factor = row[k] / lead[k];
                row.iter_mut().zip(&lead).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    (0..n).map(|k| rows[k][n] / rows[k][k]).collect()
}

impl Sampler for UniPc {
    fn run(&self) -> &Run {
        &self.run
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let (alpha, sigma) = alpha_sigma(self.run.sigmas[i]);
        let prediction = self.run.config.prediction;
        let output = if self.run.config.predict_x0 {
            let image = prediction.image(output, sample, alpha, sigma);
            if self.run.config.thresholding { threshold(&self.run.config, &image)? } else { image }
        } else {
            prediction.noise(output, sample, alpha, sigma)
        };
        let mut outputs: Vec<Combination> = self.outputs.iter().map(Combination::of).collect();
        let sample = match self.last.take() {
            Some((last, order)) if !self.run.config.disable_corrector.contains(&(i - 1)) => {
                self.advance(i - 1, &Combination::of(&last), &outputs, order, Some(&output))
            }
            _ => sample.clone(),
        };
        outputs.insert(0, output);
        outputs.truncate(self.run.config.solver_order);
        let left = self.run.timesteps.len() - i;
        let limit = if self.run.config.lower_order_final { left } else { self.run.config.solver_order };
        let order = outputs.len().min(limit);
        let next = self.advance(i, &sample, &outputs, order, None);
        let [next, sample, output] = evaluate([&next, &sample, &outputs[0]])?;
        self.outputs.insert(0, output);
        self.outputs.truncate(self.run.config.solver_order);
        self.last = Some((sample, order));
        Ok(next)
    }
}
