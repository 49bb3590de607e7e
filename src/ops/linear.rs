//! Linear layers, plain and with a LoRA branch.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// `x W^T + b`: `x` `[.., in]`, `weight` `[out, in]`, `bias` `[out]` -> `[.., out]`.
pub fn linear(tape: &Tape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    todo!()
}

/// `x W^T + b + scale (x A^T) B^T`: `a` `[r, in]`, `b` `[out, r]`; several experts at once are one `a` and `b` with the
/// ranks stacked and the scales folded into `b`.
pub fn lora_linear(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    todo!()
}
