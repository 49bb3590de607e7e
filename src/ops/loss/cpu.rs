//! The CPU bodies.

use rayon::prelude::*;

use crate::device::cpu::math::{Elementary, vectorized};
use crate::device::cpu::sums::sum_of_pairs;
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Tensor, buffer};

/// Elements that one partial sum covers.
const CHUNK: usize = 1 << 13;

pub fn weighted_mse(prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let loss = dispatch!(prediction.dtype(), T => mean::<T>(prediction, target, weights.data()));
    Ok(Tensor::full(&[], loss, prediction.dtype().accumulator()))
}

/// The gradient of the prediction.
pub fn gradient(prediction: &Tensor, target: &Tensor, weights: &Tensor, dy: &Tensor) -> Result<Tensor> {
    Ok(dispatch!(prediction.dtype(), T => slope::<T>(prediction, target, weights.data(), dy.item())))
}

fn mean<T: Elementary>(prediction: &Tensor, target: &Tensor, weights: &[f32]) -> f64 {
    let (p, t) = (prediction.reals::<T>(), target.reals::<T>());
    let size = p.len() / weights.len();
    let mut sum = 0.0;
    for ((p, t), &weight) in p.chunks_exact(size).zip(t.chunks_exact(size)).zip(weights) {
        let partial: Vec<f64> = p
            .par_chunks(CHUNK)
            .zip(t.par_chunks(CHUNK))
            .map(|(p, t)| {
                vectorized(
                    #[inline(always)]
                    || {
                        sum_of_pairs(
                            p,
                            t,
                            #[inline(always)]
                            |p, t| (p - t) * (p - t),
                        )
                    },
                )
                .to_f64()
            })
            .collect();
        sum += f64::from(weight) * partial.iter().sum::<f64>();
    }
    sum / prediction.len() as f64
}

fn slope<T: Elementary>(prediction: &Tensor, target: &Tensor, weights: &[f32], dy: f64) -> Tensor {
    let (p, t) = (prediction.reals::<T>(), target.reals::<T>());
    let size = p.len() / weights.len();
    let mut dp = buffer::<T>(p.len());
    for (i, &weight) in weights.iter().enumerate() {
        let factor = T::from_f64(2.0 * f64::from(weight) * dy / p.len() as f64);
        let range = i * size..(i + 1) * size;
        dp[range.clone()]
            .par_chunks_mut(CHUNK)
            .zip(p[range.clone()].par_chunks(CHUNK))
            .zip(t[range].par_chunks(CHUNK))
            .for_each(|((dp, p), t)| {
                for ((dp, &p), &t) in dp.iter_mut().zip(p).zip(t) {
                    *dp = factor * (p - t);
                }
            });
    }
    Tensor::from_reals(dp, prediction.shape(), prediction.dtype())
}
