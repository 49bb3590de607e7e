//! Linear combinations and clamping, without gradients: what sampler steps are made of.

use rayon::prelude::*;

use super::elementwise::{float, map, same};
use super::on_gpu;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{Real, Tensor, buffer};

const CHUNK: usize = 1 << 13;

/// `sum_i coefficient_i * x_i` over tensors of one shape and dtype, added in their order.
pub fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let Some(&(_, first)) = terms.first() else {
        return Err(Error::shape("combine", "nothing to add up"));
    };
    for &(_, x) in terms {
        same("combine", first, x)?;
    }
    let inputs: Vec<&Tensor> = terms.iter().map(|(_, x)| *x).collect();
    if on_gpu::holds("combine", &inputs)? {
        return on_gpu::combine(terms);
    }
    Ok(dispatch!(first.dtype(), T => weighted_sum::<T>(terms, first)))
}

fn weighted_sum<T: Real>(terms: &[(f64, &Tensor)], first: &Tensor) -> Tensor {
    let terms: Vec<_> = terms.iter().map(|&(c, x)| (T::from_f64(c), x.reals::<T>())).collect();
    let mut out = buffer::<T>(first.len());
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| {
        for (j, (c, x)) in terms.iter().enumerate() {
            let x = &x[i * CHUNK..][..out.len()];
            for (y, &x) in out.iter_mut().zip(x) {
                let term = *c * x;
                *y = if j == 0 { term } else { *y + term };
            }
        }
    });
    Tensor::from_reals(out, first.shape(), first.dtype())
}

/// Every value limited to `[low, high]`; NaN stays.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    float("clamp", x)?;
    if on_gpu::holds("clamp", &[x])? {
        return on_gpu::clamp(x, low, high);
    }
    Ok(dispatch!(x.dtype(), T => {
        let (low, high) = (T::from_f64(low), T::from_f64(high));
        map::<T>(x, #[inline(always)] |x| {
            let x = if x < low { low } else { x };
            if x > high { high } else { x }
        })
    }))
}
