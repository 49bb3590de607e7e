//! Launches of `loss.cu`.

use super::Buffer;
use super::buffer::expect;
use super::table::kernels;
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "weighted_mse";
const THREADS: usize = kernels::LOSS_THREADS;

/// The weighted mean squared error of a prediction and a target `[n, ..]`, f32 `[1]`, and the gradient of the prediction
/// times `scale`. `weights` is f32 `[n]`, `scale` f32 `[1]`.
pub fn weighted_mse(prediction: &Buffer, target: &Buffer, weights: &Buffer, scale: &Buffer) -> Result<[Buffer; 2]> {
    let (n, values) = (weights.len(), prediction.len());
    if n == 0 || values == 0 || !values.is_multiple_of(n) {
        return Err(Error::shape(OP, format!("{n} weights for {values} values: expected one a sample")));
    }
    expect(OP, &[("target", target, values), ("scale", scale, 1)])?;
    let gpu = prediction.gpu();
    let blocks = (values / n).div_ceil(kernels::LOSS_VALUES);
    let partial = gpu.buffer(DType::F32, n * blocks)?;
    let gradient = gpu.buffer(prediction.dtype(), values)?;
    let launch = gpu.kernel(&kernels::WEIGHTED_MSE, prediction.dtype());
    let launch = launch.grid([blocks, n, 1]).block(THREADS).output(&partial).output(&gradient);
    let launch = launch.input(prediction).input(target).input(weights).input(scale);
    launch.long(values / n).launch()?;
    Ok([mean_of_parts(&partial, values)?, gradient])
}

/// The sum of `parts`, f32, over so many values: f32 `[1]`.
pub(super) fn mean_of_parts(parts: &Buffer, values: usize) -> Result<Buffer> {
    let mean = parts.gpu().buffer(DType::F32, 1)?;
    let launch = parts.gpu().kernel(&kernels::MEAN_OF_PARTS, DType::F32).block(THREADS);
    launch.output(&mean).input(parts).int(parts.len()).long(values).launch()?;
    Ok(mean)
}
