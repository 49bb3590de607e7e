//! Weighted mean squared error.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::loss;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::weighted_mse`. The backward pass reads prediction and target once more, with the loss's gradient as the
/// scale: it is in the GPU's memory, and small gradients must not be rounded before it multiplies them.
pub fn weighted_mse(tape: &Tape, prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let (p, t, weights) = (of(prediction)?, of(target)?, of(weights)?);
    // Nobody reads the gradient of this pass: any number is good enough for its scale.
    let [loss, _] = loss::weighted_mse(&p, &t, &weights, &weights.view(0, 1))?;
    let loss = Tensor::on_gpu(loss, &[]);
    let shape = prediction.shape().to_vec();
    tape.record("weighted_mse", [prediction], &loss, move |dy, _| {
        let [_, gradient] = loss::weighted_mse(&p, &t, &weights, &of(dy)?)?;
        Ok([Some(Tensor::on_gpu(gradient, &shape))])
    });
    Ok(loss)
}
