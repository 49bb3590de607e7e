//! The CPU bodies.

use rayon::prelude::*;

use super::Distance;
use crate::device::cpu::math::{Elementary, vectorized};
use crate::device::cpu::sums::sum_of_pairs;
use crate::dispatch;
use crate::dtype::Real;
use crate::error::Result;
use crate::tensor::{Tensor, buffer};

/// Elements that one partial sum covers.
const CHUNK: usize = 1 << 13;

pub fn weighted_mse(prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let loss = dispatch!(prediction.dtype(), T => mean::<T>(prediction, target, weights.data()));
    Ok(Tensor::full(&[], loss, prediction.dtype().master_dtype()))
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

pub fn weighted_distance(
    prediction: &Tensor,
    target: &Tensor,
    weights: &Tensor,
    c: &Tensor,
    distance: Distance,
) -> Result<Tensor> {
    let loss =
        dispatch!(prediction.dtype(), T => mean_distance::<T>(prediction, target, weights.data(), c.data(), distance));
    Ok(Tensor::full(&[], loss, prediction.dtype().master_dtype()))
}

/// The gradient of the prediction.
pub fn distance_gradient(
    prediction: &Tensor,
    target: &Tensor,
    weights: &Tensor,
    c: &Tensor,
    distance: Distance,
    dy: &Tensor,
) -> Result<Tensor> {
    let dy = dy.item();
    Ok(dispatch!(prediction.dtype(), T => {
        let (p, t) = (prediction.reals::<T>(), target.reals::<T>());
        let (size, each) = (p.len() / c.len(), p.len() / weights.len());
        let factor = T::from_f64(2.0 * dy / p.len() as f64);
        let (weights, c) = (weights.data::<f32>(), c.data::<f32>());
        let mut dp = buffer::<T>(p.len());
        dp.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, dp)| {
            for (j, dp) in dp.iter_mut().enumerate() {
                let i = chunk * CHUNK + j;
                let weight = T::from_f64(f64::from(weights[i / each]));
                *dp = factor * weight * half_slope(p[i] - t[i], T::from_f64(f64::from(c[i / size])), distance);
            }
        });
        Tensor::from_reals(dp, prediction.shape(), prediction.dtype())
    }))
}

fn mean_distance<T: Real>(prediction: &Tensor, target: &Tensor, weights: &[f32], c: &[f32], distance: Distance) -> f64 {
    let (p, t) = (prediction.reals::<T>(), target.reals::<T>());
    let (size, each) = (p.len() / c.len(), p.len() / weights.len());
    let partial: Vec<f64> = p
        .par_chunks(CHUNK)
        .enumerate()
        .map(|(chunk, part)| {
            let value = |(j, &p): (usize, &T)| {
                let i = chunk * CHUNK + j;
                let value = length(p - t[i], T::from_f64(f64::from(c[i / size])), distance);
                f64::from(weights[i / each]) * value.to_f64()
            };
            part.iter().enumerate().map(value).sum()
        })
        .collect();
    partial.iter().sum::<f64>() / p.len() as f64
}

fn length<T: Real>(x: T, c: T, distance: Distance) -> T {
    let two = T::from_f64(2.0);
    // sqrt(x^2 + c^2) - c, without its cancellation.
    let bent = || x * x / ((x * x + c * c).sqrt() + c);
    match distance {
        Distance::Squared => x * x,
        Distance::Huber => two * c * bent(),
        Distance::SmoothL1 => two * bent(),
    }
}

/// Half the derivative of [`length`].
fn half_slope<T: Real>(x: T, c: T, distance: Distance) -> T {
    let bent = || x / (x * x + c * c).sqrt();
    match distance {
        Distance::Squared => x,
        Distance::Huber => c * bent(),
        Distance::SmoothL1 => bent(),
    }
}
