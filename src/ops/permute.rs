//! Ops that move data: concat and slice of channels, row selection, reshape.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// `[.., a]` and `[.., b]` -> `[.., a + b]`.
pub fn concat_channels(tape: &Tape, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    todo!()
}

/// `x[.., start..start + len]`.
pub fn slice_channels(tape: &Tape, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    todo!()
}

/// `x` `[n, t, c]`, one row a sample -> `[n, c]` with `y[i] = x[i, rows[i]]`.
pub fn select_rows(tape: &Tape, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
    todo!()
}

/// The same values under another shape.
pub fn reshape(tape: &Tape, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    todo!()
}
