//! Clamp.

use super::of;
use crate::device::gpu::elementwise as kernels;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::clamp`.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let limited = kernels::clamp(&of(x)?, low as f32, high as f32)?;
    Ok(Tensor::on_gpu(limited, x.shape()))
}
