//! Nearest-neighbour upsampling.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// `x` `[n, h, w, c]` -> `[n, height, width, c]`, source index `floor(i * h / height)` as PyTorch's `interpolate(mode="nearest")`.
pub fn upsample_nearest(tape: &Tape, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    todo!()
}
