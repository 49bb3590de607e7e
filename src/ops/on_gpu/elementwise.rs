//! Pointwise ops.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::Buffer;
use crate::device::gpu::elementwise as kernels;
pub use crate::device::gpu::elementwise::Activation;
use crate::device::gpu::sums::sum_rows_of_each;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// As `ops::scale`.
pub fn scale(tape: &Tape, x: &Tensor, factor: f64) -> Result<Tensor> {
    let times = move |x: &Tensor| Ok(Tensor::on_gpu(kernels::scale(&of(x)?, factor as f32)?, x.shape()));
    let out = times(x)?;
    tape.record("scale", [x], &out, move |dy, _| Ok([Some(times(dy)?)]));
    Ok(out)
}

/// As `ops::cast`, between f32 and a 16-bit type.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    Ok(Tensor::on_gpu(kernels::cast(&of(x)?, dtype)?, x.shape()))
}

/// As `ops::clamp`.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let limited = kernels::clamp(&of(x)?, low as f32, high as f32)?;
    Ok(Tensor::on_gpu(limited, x.shape()))
}

/// As `ops::add_channel_bias` of `[n, pixels, c]`.
pub fn add_channel_bias(tape: &Tape, x: &Tensor, t: &Tensor, [n, pixels, c]: [usize; 3]) -> Result<Tensor> {
    let out = Tensor::on_gpu(kernels::add_channel_bias(&of(x)?, &of(t)?, [n, pixels, c])?, x.shape());
    tape.record("add_channel_bias", [x, t], &out, move |dy, [wants_x, wants_t]| {
        let dt = || sums_of_samples(&of(dy)?, [n, pixels, c]);
        Ok([wants_x.then(|| dy.clone()), wants_t.then(dt).transpose()?])
    });
    Ok(out)
}

/// The sums over the pixels of `[n, pixels, c]`, `[n, c]` in the same dtype: the gradient of what each pixel got.
pub(super) fn sums_of_samples(dy: &Buffer, [n, pixels, c]: [usize; 3]) -> Result<Tensor> {
    let sums = sum_rows_of_each(dy, [n, pixels, c])?;
    let sums = match dy.dtype() {
        DType::F32 => sums,
        stored => kernels::cast(&sums, stored)?,
    };
    Ok(Tensor::on_gpu(sums, &[n, c]))
}

/// As `ops::silu`, `ops::gelu` or `ops::quick_gelu`.
pub fn activation(tape: &Tape, f: Activation, x: &Tensor) -> Result<Tensor> {
    let saved = of(x)?;
    let out = Tensor::on_gpu(kernels::activation(f, &saved)?, x.shape());
    let op = match f {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
    };
    let shape = x.shape().to_vec();
    tape.record(op, [x], &out, move |dy, _| {
        let dx = kernels::activation_backward(f, &of(dy)?, &saved)?;
        Ok([Some(Tensor::on_gpu(dx, &shape))])
    });
    Ok(out)
}

/// As `ops::geglu`; the result has `shape`, whose last dimension is `c`.
pub fn geglu(tape: &Tape, x: &Tensor, shape: &[usize], c: usize) -> Result<Tensor> {
    let saved = of(x)?;
    let rows = shape.iter().product::<usize>() / c.max(1);
    let out = Tensor::on_gpu(kernels::geglu(&saved, rows, c)?, shape);
    let x_shape = x.shape().to_vec();
    tape.record("geglu", [x], &out, move |dy, _| {
        let dx = kernels::geglu_backward(&of(dy)?, &saved, rows, c)?;
        Ok([Some(Tensor::on_gpu(dx, &x_shape))])
    });
    Ok(out)
}
