//! Weighted mean squared error.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::loss;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::weighted_mse`. The backward pass reads prediction and target once more, with the loss's gradient as the
/// scale: it is in the GPU's memory, and small gradients must not be rounded before it multiplies them.
pub fn weighted_mse(tape: &Tape, prediction: &Tensor, target: &Tensor, weights: &[f32]) -> Result<Tensor> {
    let (p, t) = (of(prediction)?, of(target)?);
    let upload = |values: &[f32]| p.gpu().upload(&Tensor::new(values.to_vec(), &[values.len()]));
    let weights = upload(weights)?;
    let [loss, _] = loss::weighted_mse(&p, &t, &weights, &upload(&[1.0])?)?;
    let loss = Tensor::on_gpu(loss, &[]);
    let shape = prediction.shape().to_vec();
    tape.record("weighted_mse", &[prediction], &loss, move |dy| {
        let [_, gradient] = loss::weighted_mse(&p, &t, &weights, &of(dy)?)?;
        Ok(vec![Some(Tensor::on_gpu(gradient, &shape))])
    });
    Ok(loss)
}
