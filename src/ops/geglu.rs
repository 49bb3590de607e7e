//! GELU-gated linear units (Shazeer 2020, arXiv:2002.05202).

use rayon::prelude::*;

use super::elementwise::float;
use super::linear::{check, linear, shaped, with_bias};
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::cpu::gemm::{Gemm, Matrix, Output, product};
use crate::device::cpu::math::{Elementary, vectorized};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, buffer, recycle};

/// Elements that one task works on.
const CHUNK: usize = 1 << 13;

/// `x` `[.., 2c]` -> `[.., c]`: first half times gelu of the second half.
pub fn geglu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    float("geglu", x)?;
    let (_, width) = x.rows("geglu")?;
    if width % 2 != 0 {
        return Err(Error::shape("geglu", format!("the last dimension of {x:?} is odd")));
    }
    let c = width / 2;
    if on_gpu::holds("geglu", &[x])? {
        return on_gpu::geglu(tape, x, &halved(x, c), c);
    }
    let out = dispatch!(x.dtype(), T => geglu_forward::<T>(x, c));
    let saved = x.clone();
    tape.record("geglu", [x], &out, move |dy, _| {
        let x = &saved;
        Ok([Some(dispatch!(x.dtype(), T => geglu_backward::<T>(x, dy, c)))])
    });
    Ok(out)
}

fn geglu_forward<T: Elementary>(x: &Tensor, c: usize) -> Tensor {
    let xs = x.reals::<T>();
    let mut out = buffer::<T>(xs.len() / 2);
    let rows = (CHUNK / c.max(1)).max(1);
    out.par_chunks_mut((rows * c).max(1))
        .zip(xs.par_chunks((rows * 2 * c).max(1)))
        .for_each(|(out, x)| gate(out, x, c));
    Tensor::from_reals(out, &halved(x, c), x.dtype())
}

fn halved(x: &Tensor, c: usize) -> Vec<usize> {
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = c;
    }
    shape
}

fn geglu_backward<T: Elementary>(x: &Tensor, dy: &Tensor, c: usize) -> Tensor {
    let (xs, dys) = (x.reals::<T>(), dy.reals::<T>());
    let mut dx = buffer::<T>(xs.len());
    let rows = (CHUNK / c.max(1)).max(1);
    dx.par_chunks_mut((rows * 2 * c).max(1))
        .zip(xs.par_chunks((rows * 2 * c).max(1)))
        .zip(dys.par_chunks((rows * c).max(1)))
        .for_each(|((dx, x), dy)| gate_gradient(dx, x, dy, c));
    Tensor::from_reals(dx, x.shape(), x.dtype())
}

/// Rows of `x` `[.., 2c]` to those of `out` `[.., c]`.
fn gate<T: Elementary>(out: &mut [T], x: &[T], c: usize) {
    vectorized(
        #[inline(always)]
        || {
            for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(2 * c)) {
                let (value, gate) = x.split_at(c);
                for ((y, &v), &g) in out.iter_mut().zip(value).zip(gate) {
                    *y = v * g.gelu();
                }
            }
        },
    );
}

fn gate_gradient<T: Elementary>(dx: &mut [T], x: &[T], dy: &[T], c: usize) {
    vectorized(
        #[inline(always)]
        || {
            let rows = dx.chunks_exact_mut(2 * c).zip(x.chunks_exact(2 * c));
            for ((dx, x), dy) in rows.zip(dy.chunks_exact(c)) {
                let (value, gate) = x.split_at(c);
                let (d_value, d_gate) = dx.split_at_mut(c);
                for i in 0..c {
                    let (gelu, slope) = gate[i].gelu_and_slope();
                    d_value[i] = dy[i] * gelu;
                    d_gate[i] = dy[i] * value[i] * slope;
                }
            }
        },
    );
}

/// Values between the layer and its gate that one task works on: they stay in the second cache.
const BETWEEN: usize = 1 << 16;

/// [`geglu`] of `x W^T + b`: `x` `[.., in]`, `weight` `[2c, in]`, `bias` `[2c]` -> `[.., c]`. On the CPU a small frozen layer
/// is computed some rows at a time together with the gate, so that what lies between them and its gradient are read where
/// they were just written. On a GPU the gate follows in the layer's own pass where no gradient is wanted; for one, what
/// lies between them is kept, since a second product costs more than to write and to read it.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit.
pub fn linear_geglu(tape: &Tape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "linear_geglu";
    let [width, inner] = weight.dims(OP)?;
    let trained = tape.wants(weight) || bias.is_some_and(|bias| tape.wants(bias));
    let (small, exact) = (weight.len() <= BETWEEN, x.dtype().accumulator() == x.dtype());
    let there = on_gpu::holds(OP, &[x, weight])?;
    let together = if there { !tape.wants(x) } else { small && exact };
    if trained || !together || width % 2 != 0 || weight.is_empty() {
        return geglu(tape, &linear(tape, x, weight, bias)?);
    }
    check(OP, x, inner, width, bias)?;
    if there {
        return on_gpu::linear_geglu(x, weight, bias, &shaped(x, width / 2));
    }
    let out = dispatch!(x.dtype(), T => {
        let (out, between) = layer_and_gate::<T>(x, weight, bias);
        let (weight, shape, dtype) = (weight.clone(), x.shape().to_vec(), x.dtype());
        let out = Tensor::from_reals(out, &shaped(x, width / 2), dtype);
        let between = Tensor::from_reals(between, &shaped(x, width), dtype);
        tape.record(OP, [x], &out, move |dy, _| {
            let dx = layer_and_gate_gradient::<T>(&between, &weight, dy);
            Ok([Some(Tensor::from_reals(dx, &shape, dtype))])
        });
        out
    });
    Ok(out)
}

/// The result, and what was between layer and gate.
fn layer_and_gate<T: Gemm + Elementary>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> (Vec<T>, Vec<T>) {
    let [width, inner] = [weight.shape()[0], weight.shape()[1]];
    let (xs, w) = (x.reals::<T>(), weight.reals::<T>());
    let rows = xs.len() / inner;
    let (mut between, mut out) = (buffer::<T>(rows * width), buffer::<T>(rows * width / 2));
    let chunk = (BETWEEN / width).max(1);
    with_bias(bias, |output| {
        between
            .par_chunks_mut(chunk * width)
            .zip(out.par_chunks_mut(chunk * width / 2))
            .zip(xs.par_chunks(chunk * inner))
            .for_each(|((between, out), x)| {
                let x = Matrix::lines(x, x.len() / inner, inner);
                product(&x, &Matrix::lines(&w, width, inner), output, between);
                gate(out, between, width / 2);
            });
    });
    (out, between)
}

fn layer_and_gate_gradient<T: Gemm + Elementary>(between: &Tensor, weight: &Tensor, dy: &Tensor) -> Vec<T> {
    let [width, inner] = [weight.shape()[0], weight.shape()[1]];
    let (xs, w, dys) = (between.reals::<T>(), weight.reals::<T>(), dy.reals::<T>());
    let mut dx = buffer::<T>(xs.len() / width * inner);
    let chunk = (BETWEEN / width).max(1);
    dx.par_chunks_mut(chunk * inner).zip(xs.par_chunks(chunk * width)).zip(dys.par_chunks(chunk * width / 2)).for_each(
        |((dx, x), dy)| {
            let mut d_between = buffer::<T>(x.len());
            gate_gradient(&mut d_between, x, dy, width / 2);
            let d = Matrix::lines(&d_between, x.len() / width, width);
            product(&d, &Matrix::steps(&w, width, inner), Output::Set, dx);
            recycle(d_between);
        },
    );
    dx
}
