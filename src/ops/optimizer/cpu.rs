//! The passes on the CPU that all optimizers share.

use rayon::prelude::*;

use crate::device::cpu::math::vectorized;
use crate::device::cpu::sums::sum_of;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Elements that one partial sum covers and one task updates.
pub const CHUNK: usize = 1 << 13;

pub fn copy(values: &Tensor, dtype: DType) -> Result<Tensor> {
    Ok(values.cast(dtype))
}

pub fn accumulate(gradient: &mut Tensor, at: usize, parts: &[&Tensor]) -> Result<()> {
    let mut sums = &mut gradient.data_mut::<f32>()[at..];
    for part in parts {
        let (sum, rest) = sums.split_at_mut(part.len());
        for (sum, &value) in sum.iter_mut().zip(part.reals::<f32>().iter()) {
            *sum += value;
        }
        sums = rest;
    }
    Ok(())
}

pub fn clip(gradient: &Tensor, scale: &Tensor, max_norm: f64) -> Result<[Tensor; 2]> {
    let scale = scale.item();
    let norm = squared_norm(gradient.data()).sqrt() / scale;
    let factor = if norm.is_finite() { (max_norm / (norm + 1e-6)).min(1.0) / scale } else { 0.0 };
    Ok([norm, factor].map(|number| Tensor::new(vec![number], &[1])))
}

pub fn move_average(average: &mut Tensor, values: &Tensor, keep: &Tensor) -> Result<()> {
    let take = (1.0 - keep.item()) as f32;
    let chunks = average.data_mut::<f32>().par_chunks_mut(CHUNK).zip(values.data::<f32>().par_chunks(CHUNK));
    chunks.for_each(|(average, values)| {
        for (a, &x) in average.iter_mut().zip(values) {
            *a += take * (x - *a);
        }
    });
    Ok(())
}

/// The sum of squares, in f64 over partial sums of fixed length: the same on any number of threads.
fn squared_norm(values: &[f32]) -> f64 {
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
