//! Pointwise ops and their gradients.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// `x + y`, same shape.
pub fn add(tape: &Tape, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    todo!()
}

/// `factor * x`.
pub fn scale(tape: &Tape, x: &Tensor, factor: f64) -> Result<Tensor> {
    todo!()
}

/// `x` `[n, h, w, c]` plus one value a sample and channel, `t` `[n, c]`.
pub fn add_channel_bias(tape: &Tape, x: &Tensor, t: &Tensor) -> Result<Tensor> {
    todo!()
}

pub fn silu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    todo!()
}

/// Exact (erf) GELU.
pub fn gelu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    todo!()
}

/// `x * sigmoid(1.702 x)`.
pub fn quick_gelu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    todo!()
}

/// `x` `[.., 2c]` -> `[.., c]`: first half times gelu of the second half.
pub fn geglu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    todo!()
}

/// `into + gradient`, in place where nobody else holds `into`. For the tape and for gradient accumulation; records nothing.
pub fn accumulate(into: Tensor, gradient: &Tensor) -> Tensor {
    todo!()
}
