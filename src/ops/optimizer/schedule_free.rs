//! AdamW without a schedule (Defazio et al. 2024, arXiv:2405.15682): the gradients are those at one point, the result is an
//! average. `kernels/schedule_free.cu` gives the formulas.

use rayon::prelude::*;

use super::cpu::CHUNK;
use super::{Optimizer, Parameters, Step, copy, expect};
use crate::device::Device;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Names in training states: z and the running mean of squares, f32 `[n]`; updates, the sum of the weights of the average, and
/// the largest learning rate, f32 `[3]`.
const STATE: [&str; 3] = ["z", "second_moment", "schedule"];

/// What schedule-free AdamW is told besides the learning rate. Names are those of the package schedulefree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScheduleFree {
    /// The share of the average in the point where gradients are taken, above 0; decay of the running mean of squares.
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
}

impl Optimizer for ScheduleFree {
    fn initial(&self, values: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let sums = Tensor::new(vec![0.0_f32; 3], &[3]).to(&values.device())?;
        let all = [copy(values, DType::F32)?, values.new_zeros(values.shape(), DType::F32)?, sums];
        Ok(STATE.into_iter().zip(all).collect())
    }

    fn update(&self, parameters: &mut Parameters, mut step: Step<'_>) -> Result<()> {
        let Parameters { values, copy, state, .. } = parameters;
        let [(_, z), (_, second), (_, sums)] = &mut state[..] else { unreachable!("of ScheduleFree::initial") };
        let n = values.len();
        expect("schedule_free", &[(z, n), (second, n), (sums, 3), (copy, n), (step.gradient, n)])?;
        let (keep, take) = (self.betas.1 as f32, (1.0 - self.betas.1) as f32);
        let (eps, decay) = (self.eps as f32, self.weight_decay as f32);
        if values.device() == Device::Cpu {
            if let Some(update) = step.advance() {
                let [updates, all, largest] = [0, 1, 2].map(|i| f64::from(sums.data::<f32>()[i]));
                let (updates, largest) = (updates + 1.0, largest.max(update.lr));
                let (weight, all) = (largest * largest, all + largest * largest);
                sums.data_mut().copy_from_slice(&[updates, all, largest].map(|number| number as f32));
                let share = if all > 0.0 { weight / all } else { 0.0 };
                let correction = (1.0 - self.betas.1.powf(updates)) as f32;
                let (lr, onward) = (update.lr as f32, (update.lr * (self.betas.0 * (1.0 - share) - 1.0)) as f32);
                let share = share as f32;
                let chunks = values.data_mut::<f32>().par_chunks_mut(CHUNK);
                let chunks = chunks.zip(step.gradient.data::<f32>().par_chunks(CHUNK));
                let chunks = chunks.zip(z.data_mut::<f32>().par_chunks_mut(CHUNK));
                chunks.zip(second.data_mut::<f32>().par_chunks_mut(CHUNK)).for_each(
                    |(((values, gradient), z), second)| {
                        for (((y, &g), z), v) in values.iter_mut().zip(gradient).zip(z).zip(second) {
                            let g = g * update.factor;
                            *v = keep * *v + take * (g * g);
                            let moved = g / ((*v / correction).sqrt() + eps) + decay * *y;
                            *y = *y + share * (*z - *y) + onward * moved;
                            *z -= lr * moved;
                        }
                    },
                );
            }
            return Ok(());
        }
        let threads = kernels::SCHEDULE_FREE_THREADS;
        let rates = values.new_empty(&[3], DType::F32)?;
        let launch = values.kernel(&kernels::SCHEDULE_FREE_RATES)?.block(32).output(&rates).update(step.progress);
        let launch = launch.update(sums).input(step.factor).input(step.lr).int(step.lr.len());
        launch.int(step.interval as usize).float(take).launch()?;
        let launch = copy.kernel(&kernels::SCHEDULE_FREE)?.grid([n.div_ceil(threads), 1, 1]).block(threads);
        let launch = launch.update(values).update(z).update(second).update(copy).input(step.gradient).input(&rates);
        let launch = launch.input(step.factor).long(n).float(self.betas.0 as f32);
        launch.float(keep).float(take).float(eps).float(decay).launch()
    }

    fn result(&self, parameters: &Parameters) -> Result<Option<Tensor>> {
        let (y, z) = (&parameters.values, &parameters.state[0].1);
        let away = 1.0 - 1.0 / self.betas.0;
        if y.device() == Device::Cpu {
            let pairs = y.data::<f32>().iter().zip(z.data::<f32>());
            let x = pairs.map(|(&y, &z)| y + away as f32 * (z - y));
            return Ok(Some(Tensor::new(x.collect::<Vec<f32>>(), y.shape())));
        }
        let (x, threads) = (y.empty_like()?, kernels::SCHEDULE_FREE_THREADS);
        let launch = y.kernel(&kernels::SCHEDULE_FREE_AVERAGE)?.grid([y.len().div_ceil(threads), 1, 1]).block(threads);
        launch.output(&x).input(y).input(z).long(y.len()).float(self.betas.0 as f32).launch()?;
        Ok(Some(x))
    }
}
