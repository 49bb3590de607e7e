//! Convolution over `[n, h, w, c]` as an implicit GEMM.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// Zeros added on each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    pub top: usize,
    pub left: usize,
    pub bottom: usize,
    pub right: usize,
}

impl Padding {
    pub const fn all(p: usize) -> Self {
        Self {
            top: p,
            left: p,
            bottom: p,
            right: p,
        }
    }
}

/// `x` `[n, h, w, c_in]`, `weight` `[c_out, kh, kw, c_in]`, `bias` `[c_out]` -> `[n, ho, wo, c_out]`.
pub fn conv2d(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: Padding,
) -> Result<Tensor> {
    todo!()
}
