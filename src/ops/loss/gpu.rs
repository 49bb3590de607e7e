//! Launches of `loss.cu`.

use super::Distance;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::LOSS_THREADS;

pub fn weighted_mse(prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    // Nobody reads the gradient of this pass: any number is good enough for its scale.
    let [loss, _] = both(prediction, target, weights, &weights.view(0, &[1]))?;
    Ok(loss)
}

/// The gradient of the prediction. Prediction and target are read once more, with the loss's gradient as the scale: it is in
/// the GPU's memory, and small gradients must not be rounded before it multiplies them.
pub fn gradient(prediction: &Tensor, target: &Tensor, weights: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let [_, gradient] = both(prediction, target, weights, dy)?;
    Ok(gradient)
}

/// The loss, f32 `[]`, and the gradient of the prediction times `scale`, one f32.
fn both(prediction: &Tensor, target: &Tensor, weights: &Tensor, scale: &Tensor) -> Result<[Tensor; 2]> {
    let (n, values) = (weights.len(), prediction.len());
    let blocks = (values / n).div_ceil(kernels::LOSS_VALUES);
    let partial = prediction.new_empty(&[n * blocks], DType::F32)?;
    let gradient = prediction.empty_like()?;
    let launch = prediction.kernel(&kernels::WEIGHTED_MSE)?;
    let launch = launch.grid([blocks, n, 1]).block(THREADS).output(&partial).output(&gradient);
    let launch = launch.input(prediction).input(target).input(weights).input(scale);
    launch.long(values / n).launch()?;
    Ok([mean_of_parts(&partial, values)?, gradient])
}

pub fn weighted_distance(
    prediction: &Tensor,
    target: &Tensor,
    weights: &Tensor,
    c: &Tensor,
    distance: Distance,
) -> Result<Tensor> {
    // Nobody reads the gradient of this pass: any number is good enough for its scale.
    let [loss, _] = both_of_distance(prediction, target, weights, c, distance, &c.view(0, &[1]))?;
    Ok(loss)
}

/// The gradient of the prediction, as [`gradient`].
pub fn distance_gradient(
    prediction: &Tensor,
    target: &Tensor,
    weights: &Tensor,
    c: &Tensor,
    distance: Distance,
    dy: &Tensor,
) -> Result<Tensor> {
    let [_, gradient] = both_of_distance(prediction, target, weights, c, distance, dy)?;
    Ok(gradient)
}

/// As [`both`].
fn both_of_distance(
    prediction: &Tensor,
    target: &Tensor,
    weights: &Tensor,
    c: &Tensor,
    distance: Distance,
    scale: &Tensor,
) -> Result<[Tensor; 2]> {
    let (n, values) = (c.len(), prediction.len());
    let blocks = (values / n).div_ceil(kernels::LOSS_VALUES);
    let partial = prediction.new_empty(&[n * blocks], DType::F32)?;
    let gradient = prediction.empty_like()?;
    let launch = prediction.kernel(&kernels::WEIGHTED_DISTANCE)?;
    let launch = launch.grid([blocks, n, 1]).block(THREADS).output(&partial).output(&gradient);
    let launch = launch.input(prediction).input(target).input(weights).input(scale).input(c);
    launch.long(values / n).long(values / weights.len()).int(distance as usize).launch()?;
    Ok([mean_of_parts(&partial, values)?, gradient])
}

/// The sum of `parts`, f32, over so many values: f32 `[]`.
pub(in crate::ops) fn mean_of_parts(parts: &Tensor, values: usize) -> Result<Tensor> {
    let mean = parts.new_empty(&[], DType::F32)?;
    let launch = parts.kernel(&kernels::MEAN_OF_PARTS)?.block(THREADS);
    launch.output(&mean).input(parts).int(parts.len()).long(values).launch()?;
    Ok(mean)
}
