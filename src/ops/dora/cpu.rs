//! DoRA on the CPU.

use rayon::prelude::*;

use crate::dispatch;
use crate::error::Result;
use crate::ops::lora::cpu::merged;
use crate::tensor::{Real, Tensor};

/// Rows that one task adds up.
const ROWS: usize = 256;

pub fn norms(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let out = weight.shape()[0];
    let matrix = |x: &Tensor| x.with_shape(&[x.shape()[0], x.len() / x.shape()[0].max(1)]);
    // In the type of the arithmetic: 16 bits would round small updates away.
    let dtype = weight.dtype().master_dtype();
    let [weight, a, b] = [weight, a, b].map(|x| matrix(x).cast(dtype));
    let merged = merged(&weight, &a, &b, scale)?;
    let norms = dispatch!(dtype, T => lengths(&merged.reals::<T>(), (merged.len() / out.max(1)).max(1)));
    Ok(Tensor::from_reals::<f64>(norms, &[out], dtype))
}

/// The length of each row of `width` values.
fn lengths<T: Real>(values: &[T], width: usize) -> Vec<f64> {
    let length = |row: &[T]| row.iter().map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt();
    values.par_chunks(width).map(length).collect()
}

/// What each channel is multiplied by. A row of zeros has no direction.
fn factors<T: Real>(magnitude: &Tensor, norm: &Tensor) -> Vec<T> {
    let (values, norms) = (magnitude.reals::<f64>(), norm.reals::<f64>());
    let factors = values.iter().zip(norms.iter()).map(|(m, n)| if *n > 0.0 { m / n } else { 0.0 });
    factors.map(T::from_f64).collect()
}

pub fn forward(
    z: &Tensor,
    magnitude: &Tensor,
    norm: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    dispatch!(z.dtype(), T => {
        let factors = factors::<T>(magnitude, norm);
        let zero = T::from_f64(0.0);
        let bias = bias.map_or_else(|| vec![zero; factors.len()], |bias| bias.reals::<T>().into_owned());
        let mut y = z.reals::<T>().into_owned();
        y.par_chunks_mut(factors.len().max(1)).for_each(|row| {
            row.iter_mut().zip(&factors).zip(&bias).for_each(|((y, f), b)| *y = *y * *f + *b);
        });
        if let Some(residual) = residual {
            y.par_iter_mut().zip(residual.reals::<T>().par_iter()).for_each(|(y, r)| *y += *r);
        }
        Ok(Tensor::from_reals::<T>(y, z.shape(), z.dtype()))
    })
}

/// `dy magnitude / norm`.
pub fn input_gradient(dy: &Tensor, magnitude: &Tensor, norm: &Tensor) -> Result<Tensor> {
    forward(dy, magnitude, norm, None, None)
}

/// The sum of `dy z` over the rows of each block of them, in f64.
fn products<T: Real>(dy: &[T], z: &[T], out: usize) -> Vec<Vec<f64>> {
    let blocks = dy.par_chunks(ROWS * out).zip(z.par_chunks(ROWS * out));
    let sums = blocks.map(|(dy, z)| {
        let mut sums = vec![0.0; out];
        for (dy, z) in dy.chunks_exact(out).zip(z.chunks_exact(out)) {
            sums.iter_mut().zip(dy.iter().zip(z)).for_each(|(sum, (dy, z))| *sum += dy.to_f64() * z.to_f64());
        }
        sums
    });
    sums.collect()
}

/// The sum of `dy z / norm` over all rows, in an order that no number of threads changes.
pub fn magnitude_gradient(dy: &Tensor, z: &Tensor, norm: &Tensor) -> Result<Tensor> {
    let out = norm.len().max(1);
    let parts = dispatch!(dy.dtype(), T => products(&dy.reals::<T>(), &z.reals::<T>(), out));
    let mut sums = vec![0.0; norm.len()];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    let norms = norm.reals::<f64>();
    sums.iter_mut().zip(norms.iter()).for_each(|(sum, norm)| *sum = if *norm > 0.0 { *sum / norm } else { 0.0 });
    Ok(Tensor::from_reals::<f64>(sums, norm.shape(), dy.dtype().master_dtype()))
}
