//! Weighted mean squared error.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// `mean_n( weights[n] * mean over the rest of (prediction - target)^2 )`, computed in f32 (f64 for f64) -> scalar `[]` of the
/// accumulator dtype. `target` gets no gradient.
pub fn weighted_mse(tape: &Tape, prediction: &Tensor, target: &Tensor, weights: &[f32]) -> Result<Tensor> {
    todo!()
}
