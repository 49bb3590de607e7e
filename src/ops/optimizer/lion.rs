//! Lion (Chen et al. 2023, arXiv:2302.06675), as lion-pytorch computes it. `kernels/lion.cu` gives the formulas.

use rayon::prelude::*;

use super::cpu::CHUNK;
use super::{Optimizer, Parameters, Step, expect, gpu};
use crate::device::Device;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// What Lion is told besides the learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Shares of the running mean in the direction, and in itself.
    pub betas: (f64, f64),
    pub weight_decay: f64,
}

impl Optimizer for Lion {
    fn initial(&self, values: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![("first_moment", values.new_zeros(values.shape(), DType::F32)?)])
    }

    fn update(&self, parameters: &mut Parameters, mut step: Step<'_>) -> Result<()> {
        let Parameters { values, copy, state, .. } = parameters;
        let [(_, mean)] = &mut state[..] else { unreachable!("of Lion::initial") };
        let n = values.len();
        expect("lion", &[(mean, n), (copy, n), (step.gradient, n)])?;
        let keep = [self.betas.0 as f32, self.betas.1 as f32];
        let take = [(1.0 - self.betas.0) as f32, (1.0 - self.betas.1) as f32];
        if values.device() == Device::Cpu {
            if let Some(update) = step.advance() {
                let (decay, lr) = ((1.0 - update.lr * self.weight_decay) as f32, update.lr as f32);
                let chunks = values.data_mut::<f32>().par_chunks_mut(CHUNK);
                let chunks = chunks.zip(step.gradient.data::<f32>().par_chunks(CHUNK));
                chunks.zip(mean.data_mut::<f32>().par_chunks_mut(CHUNK)).for_each(|((values, gradient), mean)| {
                    for ((p, &g), m) in values.iter_mut().zip(gradient).zip(mean) {
                        let g = g * update.factor;
                        let direction = keep[0] * *m + take[0] * g;
                        let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
                        *p = *p * decay - lr * sign;
                        *m = keep[1] * *m + take[1] * g;
                    }
                });
            }
            return Ok(());
        }
        let (rate, threads) = (gpu::rate(&mut step)?, kernels::LION_THREADS);
        let launch = copy.kernel(&kernels::LION)?.grid([n.div_ceil(threads), 1, 1]).block(threads);
        let launch = launch.update(values).update(mean).update(copy).input(step.gradient).input(&rate);
        let launch = launch.input(step.factor).long(n).float(self.weight_decay as f32);
        launch.float(keep[0]).float(take[0]).float(keep[1]).float(take[1]).launch()
    }
}
