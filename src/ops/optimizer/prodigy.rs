//! Prodigy (Mishchenko and Defazio 2023, arXiv:2306.06101): AdamW that estimates its own learning rate. `kernels/prodigy.cu`
//! gives the formulas.

use rayon::prelude::*;

use super::cpu::CHUNK;
use super::{Optimizer, Parameters, Step, Update, copy, expect};
use crate::device::Device;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Names in training states: the running means, the sum of gradients and the values at the start, f32 `[n]`; d, the largest
/// estimate, the numerator of the estimate, and the updates, f32 `[4]`.
const STATE: [&str; 5] = ["first_moment", "second_moment", "gradient_sum", "start", DISTANCE];

/// The name of the state whose first number is d.
pub const DISTANCE: &str = "distance";

/// What Prodigy is told besides the learning rate, which is a factor of its own and usually 1. Names are prodigyopt's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prodigy {
    pub betas: (f64, f64),
    /// Decay of the sums that the estimate is made of (default of prodigyopt: the root of beta2).
    pub beta3: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// The estimate at the start.
    pub d0: f64,
    /// A factor of the estimate.
    pub d_coef: f64,
    /// How much the estimate may grow in an update; infinite: without bound.
    pub growth_rate: f64,
    /// Whether the means are corrected for their start at 0, as Adam's are.
    pub use_bias_correction: bool,
    /// Takes the learning rate out of the estimate's denominator, so that a warm-up does not disturb it.
    pub safeguard_warmup: bool,
}

impl Optimizer for Prodigy {
    fn initial(&self, values: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let zeros = || values.new_zeros(values.shape(), DType::F32);
        let distance = Tensor::new(vec![self.d0 as f32, self.d0 as f32, 0.0, 0.0], &[4]).to(&values.device())?;
        let all = [zeros()?, zeros()?, zeros()?, copy(values, DType::F32)?, distance];
        Ok(STATE.into_iter().zip(all).collect())
    }

    fn update(&self, parameters: &mut Parameters, mut step: Step<'_>) -> Result<()> {
        let Parameters { values, copy, state, .. } = parameters;
        let [(_, first), (_, second), (_, sum), (_, start), (_, distance)] = &mut state[..] else {
            unreachable!("of Prodigy::initial")
        };
        let n = values.len();
        expect(
            "prodigy",
            &[(first, n), (second, n), (sum, n), (start, n), (distance, 4), (copy, n), (step.gradient, n)],
        )?;
        if values.device() == Device::Cpu {
            if let Some(update) = step.advance() {
                let moments = [first.data_mut(), second.data_mut(), sum.data_mut()];
                self.on_cpu(
                    values.data_mut(),
                    step.gradient.data(),
                    moments,
                    start.data(),
                    distance.data_mut(),
                    &update,
                );
            }
            return Ok(());
        }
        let (beta1, beta2) = self.betas;
        let threads = kernels::PRODIGY_THREADS;
        let blocks = n.div_ceil(kernels::PRODIGY_VALUES);
        let rates = values.new_empty(&[4], DType::F32)?;
        let launch = values.kernel(&kernels::PRODIGY_BEGIN)?.block(32).output(&rates).update(step.progress);
        let launch = launch.input(distance).input(step.factor).input(step.lr).int(step.lr.len());
        let launch = launch.int(step.interval as usize).float((1.0 - beta1) as f32).float((1.0 - beta2) as f32);
        launch.int(usize::from(self.use_bias_correction)).launch()?;

        let parts = values.new_empty(&[2 * blocks], DType::F32)?;
        let launch = values.kernel(&kernels::PRODIGY_MOMENTS)?.grid([blocks, 1, 1]).block(threads);
        let launch = launch.update(first).update(second).update(sum).output(&parts);
        let launch = launch.input(values).input(start).input(step.gradient).input(&rates).input(distance);
        let launch = launch.input(step.factor).long(n);
        let launch = launch.float(beta1 as f32).float((1.0 - beta1) as f32);
        let launch = launch.float(beta2 as f32).float((1.0 - beta2) as f32).float(self.beta3 as f32);
        launch.float(self.d0 as f32).int(usize::from(self.safeguard_warmup)).launch()?;

        let launch = values.kernel(&kernels::PRODIGY_DISTANCE)?.block(threads).update(distance).update(&rates);
        let launch = launch.input(&parts).input(step.factor).int(blocks).float(self.beta3 as f32);
        launch.float(self.d0 as f32).float(self.d_coef as f32).float(self.growth_rate as f32).launch()?;

        let launch = copy.kernel(&kernels::PRODIGY)?.grid([n.div_ceil(threads), 1, 1]).block(threads);
        let launch = launch.update(values).update(copy).input(first).input(second).input(&rates).input(step.factor);
        launch.long(n).float(self.weight_decay as f32).float(self.eps as f32).launch()
    }
}

impl Prodigy {
    fn on_cpu(
        &self,
        values: &mut [f32],
        gradient: &[f32],
        [first, second, sum]: [&mut [f32]; 3],
        start: &[f32],
        distance: &mut [f32],
        update: &Update,
    ) {
        let (beta1, beta2) = self.betas;
        let [d, largest, numerator, updates] = [0, 1, 2, 3].map(|i| f64::from(distance[i]));
        let power = |beta: f64| 1.0 - beta.powf(updates + 1.0);
        let correction = if self.use_bias_correction { power(beta2).sqrt() / power(beta1) } else { 1.0 };
        let rate = d * update.lr * correction;
        if update.lr == 0.0 {
            return;
        }
        let into_sum = (d / self.d0 * if self.safeguard_warmup { d } else { rate }) as f32;
        let (keep, take) = ([beta1 as f32, beta2 as f32], [(d * (1.0 - beta1)) as f32, (d * d * (1.0 - beta2)) as f32]);
        let beta3 = self.beta3 as f32;
        let chunks = values.par_chunks(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(start.par_chunks(CHUNK));
        let chunks = chunks.zip(first.par_chunks_mut(CHUNK)).zip(second.par_chunks_mut(CHUNK));
        let parts =
            chunks.zip(sum.par_chunks_mut(CHUNK)).map(|(((((values, gradient), start), first), second), sum)| {
                let (mut product, mut length) = (0.0, 0.0);
                let all = values.iter().zip(gradient).zip(start).zip(first).zip(second).zip(sum);
                for (((((&value, &g), &start), m), v), s) in all {
                    let g = g * update.factor;
                    product += f64::from(g) * f64::from(start - value);
                    *m = keep[0] * *m + take[0] * g;
                    *v = keep[1] * *v + take[1] * (g * g);
                    *s = beta3 * *s + into_sum * g;
                    length += f64::from(s.abs());
                }
                (product, length)
            });
        // In the order of the chunks: the same on any number of threads.
        let parts: Vec<(f64, f64)> = parts.collect();
        let (product, length) = parts.iter().fold((0.0, 0.0), |all, part| (all.0 + part.0, all.1 + part.1));
        if length == 0.0 {
            return;
        }
        let numerator = self.beta3 * numerator + d / self.d0 * rate * product;
        let estimate = self.d_coef * numerator / length;
        // As f32, in which the state is kept.
        let moved = if distance[0] == self.d0 as f32 { d.max(estimate) } else { d };
        let largest = largest.max(estimate);
        let moved = largest.min(moved * self.growth_rate);
        distance.copy_from_slice(&[moved, largest, numerator, updates + 1.0].map(|number| number as f32));

        let (decay, rate, eps) = ((self.weight_decay * rate) as f32, rate as f32, (moved * self.eps) as f32);
        let chunks = values.par_chunks_mut(CHUNK).zip(first.par_chunks(CHUNK)).zip(second.par_chunks(CHUNK));
        chunks.for_each(|((values, first), second)| {
            for ((p, &m), &v) in values.iter_mut().zip(first).zip(second) {
                *p -= decay * *p;
                *p -= rate * (m / (v.sqrt() + eps));
            }
        });
    }
}
