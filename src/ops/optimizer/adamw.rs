//! `torch.optim.AdamW` (Loshchilov and Hutter 2019, arXiv:1711.05101).

use rayon::prelude::*;

use super::cpu::CHUNK;
use super::gpu::THREADS;
use super::{Optimizer, Parameters, Step, Update, expect};
use crate::device::Device;
use crate::device::cpu::math::vectorized;
use crate::device::gpu::Launcher;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// The running means of the gradient and of its square, f32 `[n]`, as training states name them.
const MOMENTS: [&str; 2] = ["first_moment", "second_moment"];

/// What AdamW is told besides the learning rate, as `torch.optim.AdamW` names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the running mean and of the running square.
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
}

impl Optimizer for AdamW {
    fn initial(&self, values: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        MOMENTS.into_iter().map(|name| Ok((name, values.new_zeros(values.shape(), DType::F32)?))).collect()
    }

    fn update(&self, parameters: &mut Parameters, mut step: Step<'_>) -> Result<()> {
        let Parameters { values, copy, state, .. } = parameters;
        let [(_, first), (_, second)] = &mut state[..] else { unreachable!("of AdamW::initial") };
        let n = values.len();
        expect("adamw", &[(first, n), (second, n), (copy, n), (step.gradient, n)])?;
        if values.device() == Device::Cpu {
            if let Some(update) = step.advance() {
                let rates = Rates::new(self, &update);
                let chunks = values.data_mut::<f32>().par_chunks_mut(CHUNK);
                let chunks = chunks.zip(step.gradient.data::<f32>().par_chunks(CHUNK));
                let chunks = chunks.zip(first.data_mut::<f32>().par_chunks_mut(CHUNK));
                chunks.zip(second.data_mut::<f32>().par_chunks_mut(CHUNK)).for_each(|(((values, gradient), m), v)| {
                    vectorized(
                        #[inline(always)]
                        || rates.apply(values, gradient, m, v),
                    );
                });
            }
            return Ok(());
        }
        let rates = self.rates(&mut step)?;
        let launch = copy.kernel(&kernels::ADAMW)?.grid([n.div_ceil(4 * THREADS), 1, 1]).block(THREADS);
        let launch = launch.update(values).update(first).update(second).update(copy);
        let launch = launch.input(step.gradient).input(&rates).input(step.factor).long(n);
        self.numbers(launch).launch()
    }
}

impl AdamW {
    /// On a GPU: what all values of this update are multiplied by, f32 `[3]`. Counts the step, and adapts the loss scale.
    pub(super) fn rates(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let rates = step.progress.new_empty(&[3], DType::F32)?;
        let launch = step.progress.kernel(&kernels::ADAMW_RATES)?.block(32);
        let launch = launch.output(&rates).update(step.progress).input(step.factor);
        let launch = launch.input(step.lr).int(step.lr.len()).float(self.weight_decay as f32);
        let launch = launch.float((1.0 - self.betas.0) as f32).float((1.0 - self.betas.1) as f32);
        launch.int(step.interval as usize).launch()?;
        Ok(rates)
    }

    /// The last arguments of the kernels.
    pub(super) fn numbers<'a>(&self, launch: Launcher<'a>) -> Launcher<'a> {
        let (beta1, beta2) = self.betas;
        let launch = launch.float(beta1 as f32).float((1.0 - beta1) as f32);
        launch.float(beta2 as f32).float((1.0 - beta2) as f32).float(self.eps as f32)
    }
}

/// What all values of an update are multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Rates {
    decay: f32,
    rate: f32,
    root: f32,
    keep: [f32; 2],
    take: [f32; 2],
    eps: f32,
    factor: f32,
}

impl Rates {
    pub fn new(settings: &AdamW, update: &Update) -> Self {
        let AdamW { betas, eps, weight_decay } = *settings;
        let correction = |beta: f64| 1.0 - beta.powf(update.number as f64);
        Self {
            decay: (1.0 - update.lr * weight_decay) as f32,
            rate: (update.lr / correction(betas.0)) as f32,
            root: correction(betas.1).sqrt() as f32,
            keep: [betas.0 as f32, betas.1 as f32],
            take: [(1.0 - betas.0) as f32, (1.0 - betas.1) as f32],
            eps: eps as f32,
            factor: update.factor,
        }
    }

    #[inline(always)]
    pub fn apply(self, values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        let Self { decay, rate, root, .. } = self;
        for (((p, &g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = g * self.factor;
            *m = self.keep[0] * *m + self.take[0] * g;
            *v = self.keep[1] * *v + self.take[1] * (g * g);
            *p = *p * decay - rate * (*m / (v.sqrt() / root + self.eps));
        }
    }
}
