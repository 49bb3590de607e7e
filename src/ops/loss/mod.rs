//! Weighted mean squared error.

mod cpu;
mod gpu;

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, device_of, same};
pub(super) use gpu::mean_of_parts;

/// `mean_n( weights[n] * mean over the rest of (prediction - target)^2 )`, computed in f32 (f64 for f64) -> scalar `[]`
/// of the accumulator dtype. `weights` is f32 `[n]`; it and `target` get no gradient.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn weighted_mse(tape: &Tape, prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    const OP: &str = "weighted_mse";
    same(OP, prediction, target)?;
    tape.refuse(OP, target)?;
    let n = prediction.shape().first().copied().unwrap_or(0);
    if prediction.is_empty() || weights.shape() != [n] || weights.dtype() != DType::F32 {
        let message = format!("weights {weights:?} for predictions {prediction:?}: expected one a sample, in f32");
        return Err(Error::shape(OP, message));
    }
    let device = device_of(OP, &[prediction, target, weights])?;
    let loss = on!(device, weighted_mse(prediction, target, weights))?;
    let (p, t, weights) = (prediction.clone(), target.clone(), weights.clone());
    tape.record(OP, [prediction], &loss, move |dy, _| Ok([Some(on!(device, gradient(&p, &t, &weights, dy))?)]));
    Ok(loss)
}
