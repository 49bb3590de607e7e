//! Stochastic gradient descent with momentum, as `torch.optim.SGD` computes it. `kernels/sgd.cu` gives the formulas.

use rayon::prelude::*;

use super::cpu::CHUNK;
use super::{Optimizer, Parameters, Step, expect, gpu};
use crate::device::Device;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// What gradient descent is told besides the learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    pub momentum: f64,
    pub nesterov: bool,
    /// An L2 penalty: it is added to the gradient.
    pub weight_decay: f64,
}

impl Optimizer for Sgd {
    fn initial(&self, values: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![("momentum", values.new_zeros(values.shape(), DType::F32)?)])
    }

    fn update(&self, parameters: &mut Parameters, mut step: Step<'_>) -> Result<()> {
        let Parameters { values, copy, state, .. } = parameters;
        let [(_, mean)] = &mut state[..] else { unreachable!("of Sgd::initial") };
        let n = values.len();
        expect("sgd", &[(mean, n), (copy, n), (step.gradient, n)])?;
        let (decay, momentum) = (self.weight_decay as f32, self.momentum as f32);
        if values.device() == Device::Cpu {
            if let Some(update) = step.advance() {
                let lr = update.lr as f32;
                let chunks = values.data_mut::<f32>().par_chunks_mut(CHUNK);
                let chunks = chunks.zip(step.gradient.data::<f32>().par_chunks(CHUNK));
                chunks.zip(mean.data_mut::<f32>().par_chunks_mut(CHUNK)).for_each(|((values, gradient), mean)| {
                    for ((p, &g), m) in values.iter_mut().zip(gradient).zip(mean) {
                        let g = g * update.factor + decay * *p;
                        *m = momentum * *m + g;
                        *p -= lr * if self.nesterov { g + momentum * *m } else { *m };
                    }
                });
            }
            return Ok(());
        }
        let (rate, threads) = (gpu::rate(&mut step)?, kernels::SGD_THREADS);
        let launch = copy.kernel(&kernels::SGD)?.grid([n.div_ceil(threads), 1, 1]).block(threads);
        let launch = launch.update(values).update(mean).update(copy).input(step.gradient).input(&rate);
        let launch = launch.input(step.factor).long(n).float(decay).float(momentum);
        launch.int(usize::from(self.nesterov)).launch()
    }
}
