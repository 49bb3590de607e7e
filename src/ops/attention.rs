//! Scaled dot-product attention over heads that lie side by side in the channels.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// softmax(q k^T / sqrt(head size)) v for each head. `q` is `[n, tq, c]`, `k` and `v` are `[n, tk, c]`; head `i` is channels
/// `i*c/heads ..`. With `causal`, row `i` sees keys `0..=i`. Result `[n, tq, c]`.
pub fn attention(tape: &Tape, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    todo!()
}
