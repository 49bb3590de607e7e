//! Sums on the CPU, in the order of the rows.

use rayon::prelude::*;

use crate::device::cpu::math::vectorized;
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Real, Tensor};

pub fn sum_rows(x: &Tensor, [_, c]: [usize; 2]) -> Result<Tensor> {
    dispatch!(x.dtype(), T => Ok(Tensor::from_reals(rows::<T>(&x.reals::<T>(), c), &[c], x.dtype().master_dtype())))
}

pub fn sum_pixels(x: &Tensor, sizes: [usize; 3]) -> Result<Tensor> {
    dispatch!(x.dtype(), T => Ok(pixels::<T>(x, sizes)))
}

/// Sums the rows of `[rows, n]`: the gradient of a bias. Rows go in order, in blocks of a fixed size.
fn rows<T: Real>(data: &[T], n: usize) -> Vec<T> {
    const BLOCK: usize = 256;
    let zero = T::from_f64(0.0);
    let blocks: Vec<Vec<T>> = data
        .par_chunks(BLOCK * n.max(1))
        .map(|block| {
            let mut sum = vec![zero; n];
            for row in block.chunks_exact(n) {
                for (s, &x) in sum.iter_mut().zip(row) {
                    *s += x;
                }
            }
            sum
        })
        .collect();
    let mut total = vec![zero; n];
    for block in blocks {
        for (t, x) in total.iter_mut().zip(block) {
            *t += x;
        }
    }
    total
}

fn pixels<T: Real>(x: &Tensor, [n, pixels, c]: [usize; 3]) -> Tensor {
    const CHANNELS: usize = 64;
    let xs = x.reals::<T>();
    let mut out = vec![T::default(); n * c];
    out.par_chunks_mut(c.max(1)).enumerate().for_each(|(i, out)| {
        let sample = &xs[i * pixels * c..][..pixels * c];
        out.par_chunks_mut(CHANNELS).enumerate().for_each(|(j, out)| {
            vectorized(
                #[inline(always)]
                || {
                    for row in sample.chunks_exact(c) {
                        for (sum, &x) in out.iter_mut().zip(&row[j * CHANNELS..]) {
                            *sum += x;
                        }
                    }
                },
            );
        });
    });
    Tensor::from_reals(out, &[n, c], x.dtype())
}
