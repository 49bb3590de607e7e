//! Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), as `transformers.optimization.Adafactor` computes it.
//! `kernels/adafactor.cu` gives the formulas.

use rayon::prelude::*;

use super::{Optimizer, Parameters, Step, Update, expect};
use crate::device::Device;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Names in training states: the means of squares of all rows, and of all columns; the running mean of updates, f32 `[n]`,
/// or `[1]` where there is none.
const STATE: [&str; 3] = ["row_squares", "column_squares", "first_moment"];

/// What Adafactor is told besides the learning rate. Names are those of transformers.
#[derive(Clone, Debug, PartialEq)]
pub struct Adafactor {
    /// Rows and columns of each parameter, one after the other. A vector is one row; a convolution's kernel has a row for each
    /// entry of its first dimension.
    pub matrices: Vec<[usize; 2]>,
    /// Added to squared gradients; the least scale of a parameter.
    pub eps: (f64, f64),
    /// Updates of a larger root mean square are scaled down to it.
    pub clip_threshold: f64,
    /// The running means keep 1 - t^decay_rate of themselves at update t.
    pub decay_rate: f64,
    /// Decay of the running mean of updates, where there is one.
    pub beta1: Option<f64>,
    pub weight_decay: f64,
    /// Whether the learning rate is times the root mean square of a parameter.
    pub scale_parameter: bool,
    /// The learning rate is then min(1e-2, 1 / sqrt(t)), whatever is given.
    pub relative_step: bool,
    /// With `relative_step`: min(1e-6 t, 1 / sqrt(t)).
    pub warmup_init: bool,
}

impl Adafactor {
    /// Rows and columns of a parameter of this shape, as [`Adafactor::matrices`] has them.
    pub fn matrix(shape: &[usize]) -> [usize; 2] {
        match shape {
            [] => [1, 1],
            [n] => [1, *n],
            [rows, rest @ ..] => [*rows, rest.iter().product()],
        }
    }

    fn lr(&self, update: &Update) -> f64 {
        let t = update.number as f64;
        let bound = if self.warmup_init { 1e-6 * t } else { 1e-2 };
        if self.relative_step { bound.min(1.0 / t.sqrt()) } else { update.lr }
    }
}

impl Optimizer for Adafactor {
    fn initial(&self, values: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let sum = |side: usize| self.matrices.iter().map(|matrix| matrix[side]).sum();
        let mean = if self.beta1.is_some() { values.len() } else { 1 };
        let all = [sum(0), sum(1), mean].map(|len| values.new_zeros(&[len], DType::F32));
        STATE.into_iter().zip(all).map(|(name, zeros)| Ok((name, zeros?))).collect()
    }

    /// Where each parameter and its means begin, i64 `[count, 5]` as `kernels/adafactor.cu` takes it.
    fn tables(&self, values: &Tensor) -> Result<Vec<Tensor>> {
        let (mut at, mut row, mut column) = (0, 0, 0);
        let mut table = Vec::new();
        for &[rows, columns] in &self.matrices {
            table.extend([at, rows, columns, row, column].map(|number| number as i64));
            (at, row, column) = (at + rows * columns, row + rows, column + columns);
        }
        let matrices = Tensor::new(table, &[self.matrices.len(), 5]).to(&values.device())?;
        Ok(vec![matrices])
    }

    fn update(&self, parameters: &mut Parameters, mut step: Step<'_>) -> Result<()> {
        let Parameters { values, copy, state, tables } = parameters;
        let [(_, rows), (_, columns), (_, mean)] = &mut state[..] else { unreachable!("of Adafactor::initial") };
        let n = values.len();
        let trained = self.matrices.iter().map(|[rows, columns]| rows * columns).sum();
        expect("adafactor", &[(copy, n), (step.gradient, n), (values, trained)])?;
        if values.device() == Device::Cpu {
            if let Some(update) = step.advance() {
                let (mut values, mut gradient) = (values.data_mut(), step.gradient.data());
                let (mut rows, mut columns, mut mean) = (rows.data_mut(), columns.data_mut(), mean.data_mut::<f32>());
                let mut all = Vec::new();
                for &[r, c] in &self.matrices {
                    let has_mean = if self.beta1.is_some() { r * c } else { 0 };
                    all.push(Matrix {
                        values: values.split_off_mut(..r * c).expect("of all parameters"),
                        gradient: gradient.split_off(..r * c).expect("of all parameters"),
                        rows: rows.split_off_mut(..r).expect("of all parameters"),
                        columns: columns.split_off_mut(..c).expect("of all parameters"),
                        mean: mean.split_off_mut(..has_mean).expect("of all parameters"),
                    });
                }
                all.into_par_iter().for_each(|matrix| self.one(matrix, &update));
            }
            return Ok(());
        }
        let (rates, threads) = (values.new_empty(&[2], DType::F32)?, kernels::ADAFACTOR_THREADS);
        let launch = values.kernel(&kernels::ADAFACTOR_RATES)?.block(32).output(&rates).update(step.progress);
        let launch = launch.input(step.factor).input(step.lr).int(step.lr.len()).int(step.interval as usize);
        let launch = launch.int(usize::from(self.relative_step)).int(usize::from(self.warmup_init));
        launch.float(self.decay_rate as f32).launch()?;
        let launch = copy.kernel(&kernels::ADAFACTOR)?.grid([self.matrices.len(), 1, 1]).block(threads);
        let launch = launch.update(values).update(rows).update(columns).update(mean).update(copy);
        let launch = launch.input(step.gradient).input(&tables[0]).input(&rates).input(step.factor);
        let launch = launch.float(self.eps.0 as f32).float(self.eps.1 as f32).float(self.clip_threshold as f32);
        let launch = launch.float(self.beta1.unwrap_or(0.0) as f32).float(self.weight_decay as f32);
        launch.int(usize::from(self.scale_parameter)).launch()
    }
}

/// A parameter and what is kept of it.
struct Matrix<'a> {
    values: &'a mut [f32],
    gradient: &'a [f32],
    rows: &'a mut [f32],
    columns: &'a mut [f32],
    /// Empty where there is none.
    mean: &'a mut [f32],
}

impl Adafactor {
    fn one(&self, matrix: Matrix<'_>, update: &Update) {
        let Matrix { values, gradient, rows, columns, mean } = matrix;
        let width = columns.len();
        let square = |x: f32| f64::from(x) * f64::from(x);
        let root_mean = |sum: f64| (sum / values.len() as f64).sqrt();
        let scale = match self.scale_parameter {
            true => root_mean(values.iter().map(|&x| square(x)).sum()).max(self.eps.1),
            false => 1.0,
        };
        let rate = self.lr(update) * scale;
        let keep = 1.0 - (update.number as f64).powf(self.decay_rate);
        let mut sums = vec![0.0; width];
        for (row, line) in rows.iter_mut().zip(gradient.chunks_exact(width)) {
            let mut sum = 0.0;
            for (all, &g) in sums.iter_mut().zip(line) {
                let x = square(g * update.factor) + self.eps.0;
                sum += x;
                *all += x;
            }
            *row = (keep * f64::from(*row) + (1.0 - keep) * (sum / width as f64)) as f32;
        }
        for (column, sum) in columns.iter_mut().zip(sums) {
            *column = (keep * f64::from(*column) + (1.0 - keep) * (sum / rows.len() as f64)) as f32;
        }
        let middle = rows.iter().map(|&x| f64::from(x)).sum::<f64>() / rows.len() as f64;
        let by_row: Vec<f64> = rows.iter().map(|&x| (f64::from(x) / middle).sqrt()).collect();
        let by_column: Vec<f64> = columns.iter().map(|&x| f64::from(x).sqrt()).collect();
        let direction = |i: usize| f64::from(gradient[i] * update.factor) / (by_row[i / width] * by_column[i % width]);
        let size = root_mean((0..gradient.len()).map(|i| direction(i).powi(2)).sum());
        let by = rate / (size / self.clip_threshold).max(1.0);
        for (i, value) in values.iter_mut().enumerate() {
            let mut moved = by * direction(i);
            if let (Some(beta1), Some(mean)) = (self.beta1, mean.get_mut(i)) {
                moved = beta1 * f64::from(*mean) + (1.0 - beta1) * moved;
                *mean = moved as f32;
            }
            *value = (f64::from(*value) * (1.0 - self.weight_decay * rate) - moved) as f32;
        }
    }
}
