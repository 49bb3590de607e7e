//! Linear combinations and clamping, without gradients: what sampler steps are made of.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// `sum_i coefficient_i * x_i` over tensors of one shape.
pub fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    todo!()
}

/// Every value limited to `[low, high]`.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    todo!()
}
