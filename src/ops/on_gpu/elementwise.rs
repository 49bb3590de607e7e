//! Clamp and GEGLU.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::elementwise as kernels;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::clamp`.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let limited = kernels::clamp(&of(x)?, low as f32, high as f32)?;
    Ok(Tensor::on_gpu(limited, x.shape()))
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
