//! LayerNorm over the last dimension.

use rayon::prelude::*;

use super::elementwise::float;
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::cpu::math::{Elementary, vectorized};
use crate::device::cpu::sums::{sum_of, sum_of_pairs};
use crate::device::gpu::layer_norm::LayerNorm as Launch;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, buffer};

/// Values of one task; the gradients of weight and bias are partial sums over as many.
const CHUNK: usize = 1 << 13;

/// The values of a task's rows of `c`.
fn chunk(c: usize) -> usize {
    (CHUNK / c).max(1) * c
}

/// `x` `[.., c]`; `weight` and `bias` `[c]` (f32, or f64 for an f64 `x`).
pub fn layer_norm(tape: &Tape, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    const OP: &str = "layer_norm";
    float(OP, x)?;
    let (rows, c) = x.rows(OP)?;
    if c == 0 || weight.shape() != [c] || bias.shape() != [c] {
        return Err(Error::shape(OP, format!("weight {weight:?} and bias {bias:?} do not fit {x:?}")));
    }
    if on_gpu::holds(OP, &[x, weight, bias])? {
        let eps = eps as f32;
        return on_gpu::layer_norm(tape, x, weight, bias, Launch { rows, c, eps });
    }
    let parameter = bias.dtype().accumulator();
    let (saved, saved_weight) = (x.clone(), weight.clone());
    dispatch!(x.dtype(), T => {
        let (out, statistics) = forward::<T>(x, weight, bias, eps);
        tape.record(OP, [x, weight, bias], &out, move |dy, wants| {
            Ok(backward(&saved, &saved_weight, &statistics, dy, wants, parameter))
        });
        Ok(out)
    })
}

/// Mean and 1 / sqrt(variance + eps) of a row, the variance from differences to the mean.
#[inline(always)]
fn statistics<T: Elementary>(row: &[T], eps: f64) -> (T, T) {
    let c = T::from_f64(row.len() as f64);
    let mean = sum_of(
        row,
        #[inline(always)]
        |x| x,
    ) / c;
    let variance = sum_of(
        row,
        #[inline(always)]
        |x| (x - mean) * (x - mean),
    ) / c;
    (mean, T::from_f64(1.0) / (variance + T::from_f64(eps)).sqrt())
}

/// The result, and the statistics of each row.
fn forward<T: Elementary>(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> (Tensor, Vec<(T, T)>) {
    let c = weight.len();
    let (xs, w, b) = (x.reals::<T>(), weight.reals::<T>(), bias.reals::<T>());
    let mut out = buffer::<T>(xs.len());
    let mut rows = vec![(T::default(), T::default()); xs.len() / c];
    out.par_chunks_mut(chunk(c)).zip(xs.par_chunks(chunk(c))).zip(rows.par_chunks_mut(chunk(c) / c)).for_each(
        |((out, x), rows)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((out, x), row) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(rows) {
                        let (mean, inverse) = statistics(x, eps);
                        for (((y, &x), &w), &b) in out.iter_mut().zip(x).zip(&*w).zip(&*b) {
                            *y = ((x - mean) * inverse).mul_add(w, b);
                        }
                        *row = (mean, inverse);
                    }
                },
            );
        },
    );
    (Tensor::from_reals(out, x.shape(), x.dtype()), rows)
}

/// Gradients of x, weight and bias where wanted.
fn backward<T: Elementary>(
    x: &Tensor,
    weight: &Tensor,
    statistics: &[(T, T)],
    dy: &Tensor,
    wants: [bool; 3],
    parameter: DType,
) -> [Option<Tensor>; 3] {
    let c = weight.len();
    let (xs, w, dys) = (x.reals::<T>(), weight.reals::<T>(), dy.reals::<T>());
    let [wants_x, wants_weight, wants_bias] = wants;
    let dx = wants_x.then(|| {
        let mut dx = buffer::<T>(xs.len());
        let tasks = dx.par_chunks_mut(chunk(c)).zip(xs.par_chunks(chunk(c)));
        let tasks = tasks.zip(dys.par_chunks(chunk(c))).zip(statistics.par_chunks(chunk(c) / c));
        tasks.for_each(|(((dx, x), dy), statistics)| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c));
                    for (((dx, x), dy), &statistics) in rows.zip(statistics) {
                        input_gradient(dx, x, &w, dy, statistics);
                    }
                },
            );
        });
        Tensor::from_reals(dx, x.shape(), x.dtype())
    });
    let mut sums = vec![T::default(); 2 * c];
    if wants_weight || wants_bias {
        let partial: Vec<Vec<T>> = xs
            .par_chunks(chunk(c))
            .zip(dys.par_chunks(chunk(c)))
            .zip(statistics.par_chunks(chunk(c) / c))
            .map(|((x, dy), statistics)| {
                vectorized(
                    #[inline(always)]
                    || parameter_sums(x, dy, c, statistics),
                )
            })
            .collect();
        for partial in partial {
            sums.iter_mut().zip(partial).for_each(|(sum, p)| *sum += p);
        }
    }
    let parameters = |sums: &[T]| Tensor::from_reals(sums.to_vec(), &[c], parameter);
    let dweight = wants_weight.then(|| parameters(&sums[..c]));
    let dbias = wants_bias.then(|| parameters(&sums[c..]));
    [dx, dweight, dbias]
}

/// With g = w dy and the normalised row n: dx = (g - mean g - n mean(g n)) / deviation.
#[inline(always)]
fn input_gradient<T: Elementary>(dx: &mut [T], x: &[T], w: &[T], dy: &[T], (mean, inverse): (T, T)) {
    let c = T::from_f64(x.len() as f64);
    for ((g, &dy), &w) in dx.iter_mut().zip(dy).zip(w) {
        *g = dy * w;
    }
    let g_mean = sum_of(
        dx,
        #[inline(always)]
        |g| g,
    ) / c;
    let g_along = sum_of_pairs(
        dx,
        x,
        #[inline(always)]
        |g, x| g * ((x - mean) * inverse),
    ) / c;
    for (g, &x) in dx.iter_mut().zip(x) {
        let normal = (x - mean) * inverse;
        *g = inverse * (*g - g_mean - normal * g_along);
    }
}

/// `[2, c]`: sums over the rows of dy times the normalised row, and of dy.
#[inline(always)]
fn parameter_sums<T: Elementary>(x: &[T], dy: &[T], c: usize, statistics: &[(T, T)]) -> Vec<T> {
    let mut sums = vec![T::default(); 2 * c];
    let (d_weight, d_bias) = sums.split_at_mut(c);
    for ((x, dy), &(mean, inverse)) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(statistics) {
        for (((dw, db), &x), &dy) in d_weight.iter_mut().zip(d_bias.iter_mut()).zip(x).zip(dy) {
            *dw += dy * ((x - mean) * inverse);
            *db += dy;
        }
    }
    sums
}
