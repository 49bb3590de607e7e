//! The CPU bodies.

use rayon::prelude::*;

use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Real, Tensor, buffer, map};

const CHUNK: usize = 1 << 13;

pub fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let (_, first) = terms[0];
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

pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    Ok(dispatch!(x.dtype(), T => {
        let (low, high) = (T::from_f64(low), T::from_f64(high));
        map::<T>(x, #[inline(always)] |x| {
            let x = if x < low { low } else { x };
            if x > high { high } else { x }
        })
    }))
}
