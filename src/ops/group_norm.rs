//! GroupNorm over `[n, h, w, c]`, optionally followed by SiLU in the same pass.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// Normalises each of `groups` channel groups of `x` `[n, h, w, c]`, scales and shifts each channel by `weight` and `bias` `[c]`
/// (f32, or f64 for an f64 `x`), then applies SiLU where `silu` is set.
pub fn group_norm(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    todo!()
}
