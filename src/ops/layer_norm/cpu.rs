//! LayerNorm on the CPU: tasks are blocks of rows.

use rayon::prelude::*;

use super::Shape;
use crate::device::cpu::math::{Elementary, vectorized};
use crate::device::cpu::sums::{sum_of, sum_of_pairs};
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Tensor, buffer};

/// Values of one task; the gradients of weight and bias are partial sums over as many.
const CHUNK: usize = 1 << 13;

/// The result, and mean and 1 / sqrt(variance + eps) of each row.
pub fn forward(shape: &Shape, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, [Tensor; 2])> {
    dispatch!(x.dtype(), T => Ok(shape.forward::<T>(x, weight, bias)))
}

/// The gradients of x, weight and bias where wanted.
pub fn backward(
    shape: &Shape,
    x: &Tensor,
    weight: &Tensor,
    statistics: &[Tensor; 2],
    (dy, onto): (&Tensor, Option<Tensor>),
    wants: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let [dx, dweight, dbias] = dispatch!(x.dtype(), T => shape.backward::<T>(x, weight, statistics, dy, wants));
    Ok([dx.map(|dx| dx.added_onto(onto)).transpose()?, dweight, dbias])
}

impl Shape {
    /// Rows of a task.
    fn block(&self) -> usize {
        (CHUNK / self.c).max(1)
    }

    fn forward<T: Elementary>(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> (Tensor, [Tensor; 2]) {
        let (c, block) = (self.c, self.block());
        let (xs, w, b) = (x.reals::<T>(), weight.reals::<T>(), bias.reals::<T>());
        let mut out = buffer::<T>(xs.len());
        let (mut means, mut inverses) = (buffer::<T>(self.rows), buffer::<T>(self.rows));
        let tasks = out.par_chunks_mut(block * c).zip(xs.par_chunks(block * c));
        let tasks = tasks.zip(means.par_chunks_mut(block).zip(inverses.par_chunks_mut(block)));
        tasks.for_each(|((out, x), (means, inverses))| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(c).zip(x.chunks_exact(c));
                    for ((out, x), (row_mean, row_inverse)) in rows.zip(means.iter_mut().zip(inverses)) {
                        let (mean, inverse) = statistics(x, self.eps);
                        for (((y, &x), &w), &b) in out.iter_mut().zip(x).zip(&*w).zip(&*b) {
                            *y = ((x - mean) * inverse).mul_add(w, b);
                        }
                        (*row_mean, *row_inverse) = (mean, inverse);
                    }
                },
            );
        });
        let statistics = [means, inverses].map(|rows| Tensor::new(rows, &[self.rows]));
        (Tensor::from_reals(out, x.shape(), x.dtype()), statistics)
    }

    fn backward<T: Elementary>(
        &self,
        x: &Tensor,
        weight: &Tensor,
        statistics: &[Tensor; 2],
        dy: &Tensor,
        wants: [bool; 3],
    ) -> [Option<Tensor>; 3] {
        let (c, block) = (self.c, self.block());
        let (xs, w, dys) = (x.reals::<T>(), weight.reals::<T>(), dy.reals::<T>());
        let [means, inverses] = statistics.each_ref().map(|rows| rows.data::<T>());
        let tasks = || xs.par_chunks(block * c).zip(dys.par_chunks(block * c));
        let tasks = || tasks().zip(means.par_chunks(block).zip(inverses.par_chunks(block)));
        let [wants_x, wants_weight, wants_bias] = wants;
        let dx = wants_x.then(|| {
            let mut dx = buffer::<T>(xs.len());
            dx.par_chunks_mut(block * c).zip(tasks()).for_each(|(dx, ((x, dy), (means, inverses)))| {
                vectorized(
                    #[inline(always)]
                    || {
                        let rows = dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c));
                        for (((dx, x), dy), (&mean, &inverse)) in rows.zip(means.iter().zip(inverses)) {
                            input_gradient(dx, x, &w, dy, (mean, inverse));
                        }
                    },
                );
            });
            Tensor::from_reals(dx, x.shape(), x.dtype())
        });
        let mut sums = vec![T::default(); 2 * c];
        if wants_weight || wants_bias {
            let partial = tasks().map(|((x, dy), statistics)| {
                vectorized(
                    #[inline(always)]
                    || parameter_sums(x, dy, c, statistics),
                )
            });
            for partial in partial.collect::<Vec<Vec<T>>>() {
                sums.iter_mut().zip(partial).for_each(|(sum, p)| *sum += p);
            }
        }
        let parameter = |sums: &[T]| Tensor::from_reals(sums.to_vec(), &[c], weight.dtype().master_dtype());
        [dx, wants_weight.then(|| parameter(&sums[..c])), wants_bias.then(|| parameter(&sums[c..]))]
    }
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
fn parameter_sums<T: Elementary>(x: &[T], dy: &[T], c: usize, (means, inverses): (&[T], &[T])) -> Vec<T> {
    let mut sums = vec![T::default(); 2 * c];
    let (d_weight, d_bias) = sums.split_at_mut(c);
    let rows = x.chunks_exact(c).zip(dy.chunks_exact(c));
    for ((x, dy), (&mean, &inverse)) in rows.zip(means.iter().zip(inverses)) {
        for (((dw, db), &x), &dy) in d_weight.iter_mut().zip(d_bias.iter_mut()).zip(x).zip(dy) {
            *dw += dy * ((x - mean) * inverse);
            *db += dy;
        }
    }
    sums
}
