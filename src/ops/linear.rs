//! Linear layers.

use super::elementwise::add;
use super::lora::{Branch, lora_linear_onto};
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::cpu::gemm::{Gemm, Matrix, Output, Pair, product, product_transposed, sum_of_products, sum_rows};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, buffer};

/// `x W^T + b`: `x` `[.., in]`, `weight` `[out, in]`, `bias` `[out]` -> `[.., out]`.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit.
pub fn linear(tape: &Tape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    linear_onto(tape, None, x, weight, bias)
}

/// `onto + x W^T + b`, and with a branch what that adds: on a GPU in one pass over the result.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit.
pub fn add_linear(
    tape: &Tape,
    onto: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    branch: Option<Branch<'_>>,
) -> Result<Tensor> {
    match branch {
        None => linear_onto(tape, Some(onto), x, weight, bias),
        Some(branch) => lora_linear_onto(tape, Some(onto), x, weight, bias, branch),
    }
}

fn linear_onto(
    tape: &Tape,
    onto: Option<&Tensor>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    const OP: &str = "linear";
    let [out, width] = weight.dims(OP)?;
    let (rows, _) = check(OP, x, width, out, bias)?;
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    if on_gpu::holds(OP, &inputs)? {
        let shape = shaped(x, out);
        return on_gpu::linear(tape, fitting(OP, onto, x, &shape)?, x, weight, bias, &shape);
    }
    let y = dispatch!(x.dtype(), T => {
        let mut y = buffer::<T>(rows * out);
        let (x_data, w_data) = (x.reals::<T>(), weight.reals::<T>());
        let pair: Pair<'_, T> = (&Matrix::lines(&x_data, rows, width), &Matrix::lines(&w_data, out, width));
        with_bias(bias, |output| product(pair.0, pair.1, output, &mut y));
        Tensor::from_reals(y, &shaped(x, out), x.dtype())
    });
    // Only the gradient of the weight reads `x`: a frozen layer does not keep it.
    let (saved, w, shape, dtype) =
        (tape.wants(weight).then(|| x.clone()), weight.clone(), x.shape().to_vec(), x.dtype());
    tape.record(OP, [Some(x), Some(weight), bias], &y, move |dy, [wants_x, _, wants_bias]| {
        dispatch!(dtype, T => {
            let dy = dy.reals::<T>();
            let dx = wants_x.then(|| {
                let dx = multiplied::<T>(&[(&Matrix::lines(&dy, rows, out), &Matrix::steps(&w.reals::<T>(), out, width))]);
                Tensor::from_reals(dx, &shape, dtype)
            });
            let dw = saved.map(|x| weight_gradient::<T>(&dy, &x.reals::<T>(), out, width, w.dtype()));
            let db = || Tensor::from_reals(sum_rows::<T>(&dy, out), &[out], dtype.accumulator());
            Ok([dx, dw, wants_bias.then(db)])
        })
    });
    onto.map_or(Ok(y.clone()), |onto| add(tape, onto, &y))
}

/// `onto`, where it is as the result of the layer will be.
pub(super) fn fitting<'a>(
    op: &'static str,
    onto: Option<&'a Tensor>,
    x: &Tensor,
    shape: &[usize],
) -> Result<Option<&'a Tensor>> {
    if let Some(onto) = onto {
        on_gpu::holds(op, &[x, onto])?;
        if onto.shape() != shape || onto.dtype() != x.dtype() {
            return Err(Error::shape(op, format!("{onto:?} is not like the result {shape:?} of {x:?}")));
        }
    }
    Ok(onto)
}

/// Checks `x` and `bias` against a weight `[out, width]`; gives `x` as (rows, width).
pub(super) fn check(
    op: &'static str,
    x: &Tensor,
    width: usize,
    out: usize,
    bias: Option<&Tensor>,
) -> Result<(usize, usize)> {
    let (rows, x_width) = x.rows(op)?;
    if x_width != width {
        return Err(Error::shape(
            op,
            format!("x of shape {:?} does not fit a weight of shape [{out}, {width}]", x.shape()),
        ));
    }
    match bias {
        Some(bias) if bias.shape() != [out] => Err(Error::shape(
            op,
            format!("a bias of shape {:?} does not fit a weight of shape [{out}, {width}]", bias.shape()),
        )),
        _ => Ok((rows, width)),
    }
}

/// The shape of `x` with another last dimension.
pub(super) fn shaped(x: &Tensor, last: usize) -> Vec<usize> {
    let (_, rows) = x.shape().split_last().expect("checked to have a dimension");
    rows.iter().copied().chain([last]).collect()
}

/// Calls `f` with what a bias means for the output.
pub(super) fn with_bias<T: Gemm>(bias: Option<&Tensor>, f: impl FnOnce(Output<'_, T>)) {
    let bias = bias.map(|b| b.reals::<T>());
    f(bias.as_ref().map_or(Output::Set, |b| Output::Bias(b)));
}

/// The sum of the products of `pairs`, of which there is one at least.
pub(super) fn multiplied<T: Gemm>(pairs: &[Pair<'_, T>]) -> Vec<T> {
    let (a, b) = pairs[0];
    let mut c = buffer(a.lines() * b.lines());
    sum_of_products(pairs, Output::Set, &mut c);
    c
}

/// `dW = dy^T x` `[out, width]`, in the dtype of the gradient of a parameter stored as `stored`.
pub(super) fn weight_gradient<T: Gemm>(dy: &[T], x: &[T], out: usize, width: usize, stored: DType) -> Tensor {
    let rows = dy.len() / out.max(1);
    let (dy, x) = (Matrix::steps(dy, rows, out), Matrix::steps(x, rows, width));
    let mut dw = buffer::<T>(out * width);
    // A rank would not fill a vector.
    if width < out {
        product_transposed(&x, &dy, Output::Set, &mut dw);
    } else {
        product(&dy, &x, Output::Set, &mut dw);
    }
    Tensor::from_reals(dw, &[out, width], stored.accumulator())
}

pub(super) fn multiply<T: Gemm>(values: &mut [T], scale: f64) {
    if scale != 1.0 {
        let scale = T::from_f64(scale);
        values.iter_mut().for_each(|v| *v *= scale);
    }
}
