//! GEGLU on the CPU.

use rayon::prelude::*;

use crate::device::cpu::gemm::{Gemm, Matrix, Output, product};
use crate::device::cpu::math::{Elementary, vectorized};
use crate::dispatch;
use crate::error::Result;
use crate::ops::lora::cpu::{forward, input_gradient};
pub use crate::ops::lora::cpu::{hidden, merged};
use crate::ops::matmul::cpu::with_bias;
use crate::ops::matmul::{shaped, sizes};
use crate::tensor::{Tensor, buffer, recycle};

/// Elements that one task works on.
const CHUNK: usize = 1 << 13;
/// Values between the layer and its gate that one task works on: they stay in the second cache.
const BETWEEN: usize = 1 << 16;

pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let c = sizes(x)[1] / 2;
    dispatch!(x.dtype(), T => {
        let xs = x.reals::<T>();
        let mut out = buffer::<T>(xs.len() / 2);
        let rows = (CHUNK / c.max(1)).max(1);
        out.par_chunks_mut((rows * c).max(1))
            .zip(xs.par_chunks((rows * 2 * c).max(1)))
            .for_each(|(out, x)| gate(out, x, c));
        Ok(Tensor::from_reals(out, &shaped(x, c), x.dtype()))
    })
}

pub fn gradient(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let c = sizes(x)[1] / 2;
    dispatch!(x.dtype(), T => {
        let (xs, dys) = (x.reals::<T>(), dy.reals::<T>());
        let mut dx = buffer::<T>(xs.len());
        let rows = (CHUNK / c.max(1)).max(1);
        dx.par_chunks_mut((rows * 2 * c).max(1))
            .zip(xs.par_chunks((rows * 2 * c).max(1)))
            .zip(dys.par_chunks((rows * c).max(1)))
            .for_each(|((dx, x), dy)| gate_gradient(dx, x, dy, c));
        Ok(Tensor::from_reals(dx, x.shape(), x.dtype()))
    })
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

/// GEGLU of a layer, `[.., n]`, and what is between, `[.., 2n]`, where that is wanted. `second` continues the layer's sum: `[h, b]`
/// for `h B^T`.
pub fn gated_layer(
    x: &Tensor,
    weight: &Tensor,
    second: Option<[&Tensor; 2]>,
    bias: Option<&Tensor>,
    wants_between: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let between = forward(x, weight, second, bias, None)?;
    Ok((geglu(&between)?, wants_between.then_some(between)))
}

/// [`gradient`] of `between` from `dy W`, the gradient of a layer's input. `second` continues the sum: `[dh, a]` for `dh A`.
pub fn before_gate(dy: &Tensor, weight: &Tensor, second: Option<[&Tensor; 2]>, between: &Tensor) -> Result<Tensor> {
    gradient(between, &input_gradient(dy, weight, second, None)?)
}

/// Whether a layer with this weight is computed together with its gate: a small one whose values are not rounded.
pub fn joins(x: &Tensor, weight: &Tensor) -> bool {
    weight.len() <= BETWEEN && x.dtype().master_dtype() == x.dtype()
}

/// The result of the layer and its gate, some rows at a time, and what is between them, `[.., 2c]`.
pub fn linear_geglu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let width = sizes(weight)[0];
    dispatch!(x.dtype(), T => {
        let (y, between) = layer_and_gate::<T>(x, weight, bias);
        let y = Tensor::from_reals(y, &shaped(x, width / 2), x.dtype());
        Ok((y, Tensor::from_reals(between, &shaped(x, width), x.dtype())))
    })
}

/// The gradient of the layer's x from what was between layer and gate.
pub fn linear_geglu_gradient(between: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<Tensor> {
    dispatch!(dy.dtype(), T => {
        let dx = layer_and_gate_gradient::<T>(between, weight, dy);
        Ok(Tensor::from_reals(dx, &shaped(dy, sizes(weight)[1]), dy.dtype()))
    })
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
                let x = Matrix::row_major(x, x.len() / inner, inner);
                product(&x, &Matrix::row_major(&w, width, inner), output, between);
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
            let d = Matrix::row_major(&d_between, x.len() / width, width);
            product(&d, &Matrix::transposed(&w, width, inner), Output::Set, dx);
            recycle(d_between);
        },
    );
    dx
}
