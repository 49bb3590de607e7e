//! Weighted mean squared error.

use rayon::prelude::*;

use super::elementwise::same;
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::cpu::math::{Elementary, vectorized};
use crate::device::cpu::sums::sum_of_pairs;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, buffer};

/// Elements that one partial sum covers.
const CHUNK: usize = 1 << 13;

/// `mean_n( weights[n] * mean over the rest of (prediction - target)^2 )`, computed in f32 (f64 for f64) -> scalar `[]`
/// of the accumulator dtype. `weights` is f32 `[n]`; it and `target` get no gradient.
pub fn weighted_mse(tape: &Tape, prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    const OP: &str = "weighted_mse";
    same(OP, prediction, target)?;
    tape.refuse(OP, target)?;
    let n = prediction.shape().first().copied().unwrap_or(0);
    if prediction.is_empty() || weights.shape() != [n] || weights.dtype() != DType::F32 {
        return Err(Error::shape(
            OP,
            format!("weights {weights:?} for predictions {prediction:?}: expected one a sample, in f32"),
        ));
    }
    if on_gpu::holds(OP, &[prediction, target, weights])? {
        return on_gpu::weighted_mse(tape, prediction, target, weights);
    }
    let dtype = prediction.dtype();
    let loss = dispatch!(dtype, T => mean::<T>(prediction, target, weights.data()));
    let loss = Tensor::full(&[], loss, dtype.accumulator());
    let (p, t, weights) = (prediction.clone(), target.clone(), weights.clone());
    tape.record(OP, [prediction], &loss, move |dy, _| {
        Ok([Some(dispatch!(dtype, T => slope::<T>(&p, &t, weights.data(), dy.item())))])
    });
    Ok(loss)
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
