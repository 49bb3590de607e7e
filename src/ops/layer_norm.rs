//! LayerNorm over the last dimension.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// `x` `[.., c]`; `weight` and `bias` `[c]` (f32, or f64 for an f64 `x`).
pub fn layer_norm(tape: &Tape, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    todo!()
}
