//! Passes over flat buffers: squared norm, clipping, AdamW.

mod eight_bits;

use rayon::prelude::*;

use crate::device::cpu::math::vectorized;
use crate::device::cpu::sums::sum_of;
pub use crate::device::gpu::optimizer::AdamW;
pub use eight_bits::{BLOCK, Codes, adamw_8bit, code_values};

/// Elements that one partial sum covers and one task updates.
const CHUNK: usize = 1 << 13;

/// The sum of squares, in f64 over partial sums of fixed length: the same on any number of threads.
pub fn squared_norm(values: &[f32]) -> f64 {
    let partial: Vec<f64> = values
        .par_chunks(CHUNK)
        .map(|chunk| {
            let squares = vectorized(
                #[inline(always)]
                || {
                    sum_of(
                        chunk,
                        #[inline(always)]
                        |x| x * x,
                    )
                },
            );
            if squares.is_finite() && squares > f32::MIN_POSITIVE {
                f64::from(squares)
            } else {
                // Squares left the range of f32.
                chunk.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
            }
        })
        .collect();
    partial.iter().sum()
}

/// What gradients of this norm are multiplied by so that it is at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_`.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// One step of `torch.optim.AdamW` (Loshchilov and Hutter 2019, arXiv:1711.05101), the `step`-th from 1 on, with
/// gradients multiplied by `grad_scale` as they are read. `first` and `second` are the moments.
///
/// # Panics
/// If the slices differ in length.
pub fn adamw(
    params: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    settings: AdamW,
    step: u64,
    grad_scale: f64,
) {
    let len = params.len();
    assert!(
        [gradients.len(), first.len(), second.len()] == [len; 3],
        "AdamW: parameters, gradients and moments differ in length"
    );
    let rates = Rates::new(settings, step, grad_scale);
    params
        .par_chunks_mut(CHUNK)
        .zip(gradients.par_chunks(CHUNK))
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK))
        .for_each(|(((params, gradients), first), second)| {
            vectorized(
                #[inline(always)]
                || rates.apply(params, gradients, first, second),
            );
        });
}

/// What every value of one step is multiplied by.
#[derive(Clone, Copy)]
struct Rates {
    decay: f32,
    rate: f32,
    root: f32,
    keep: [f32; 2],
    take: [f32; 2],
    eps: f32,
    grad_scale: f32,
}

impl Rates {
    fn new(settings: AdamW, step: u64, grad_scale: f64) -> Self {
        let AdamW { lr, betas, eps, weight_decay } = settings;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Self {
            decay: (1.0 - lr * weight_decay) as f32,
            rate: (lr / correction(betas.0)) as f32,
            root: correction(betas.1).sqrt() as f32,
            keep: [betas.0 as f32, betas.1 as f32],
            take: [(1.0 - betas.0) as f32, (1.0 - betas.1) as f32],
            eps: eps as f32,
            grad_scale: grad_scale as f32,
        }
    }

    #[inline(always)]
    fn apply(self, params: &mut [f32], gradients: &[f32], first: &mut [f32], second: &mut [f32]) {
        let Self { decay, rate, root, .. } = self;
        for (((p, &g), m), v) in params.iter_mut().zip(gradients).zip(first).zip(second) {
            let g = g * self.grad_scale;
            *m = self.keep[0] * *m + self.take[0] * g;
            *v = self.keep[1] * *v + self.take[1] * (g * g);
            *p = *p * decay - rate * (*m / (v.sqrt() / root + self.eps));
        }
    }
}

/// Moves every value of a running average towards `values`: `average = decay * average + (1 - decay) * value`.
///
/// # Panics
/// If the slices differ in length.
pub fn move_average(average: &mut [f32], values: &[f32], decay: f64) {
    assert_eq!(average.len(), values.len(), "an average of other values");
    let take = (1.0 - decay) as f32;
    average.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(average, values)| {
        for (a, &x) in average.iter_mut().zip(values) {
            *a += take * (x - *a);
        }
    });
}
