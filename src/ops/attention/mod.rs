//! Scaled dot-product attention over heads that lie side by side in the channels. Only the log-sum-exp of each query's
//! scores is kept, and the backward pass recomputes the probabilities from it (Dao et al. 2022, arXiv:2205.14135).

mod cpu;
mod gpu;
mod gpu_unfused;
pub(super) mod hopper;

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float};

const OP: &str = "attention";

/// softmax(q k^T / sqrt(head size)) v for each head. `q` is `[n, tq, c]`, `k` and `v` are `[n, tk, c]`; head `i` is
/// channels `i*c/heads ..`. With `causal`, row `i` sees keys `0..=i`. Result `[n, tq, c]`.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices, and on a GPU for several heads, or
/// a causal mask, of more than 160 channels a head, which no model has; what a GPU says.
pub fn attention(tape: &Tape, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let shape = Shape::check([q, k, v], heads, causal)?;
    let device = device_of(OP, &[q, k, v])?;
    let (y, saved) = on!(device, forward(&shape, [q, k, v]))?;
    let inputs = [q, k, v].map(Tensor::clone);
    tape.record(OP, [q, k, v], &y, move |dy, wants| {
        on!(device, backward(&shape, inputs.each_ref(), &saved, dy, wants))
    });
    Ok(y)
}

/// `dy y` of each head on a GPU, f32 `[n, heads, tq]`.
pub fn delta_on_gpu(dy: &Tensor, y: &Tensor, heads: usize) -> Result<Tensor> {
    gpu::delta(dy, y, heads)
}

/// The result on a GPU, and what the backward pass needs.
#[cfg(all(test, feature = "simulator"))]
pub fn on_gpu([q, k, v]: [&Tensor; 3], heads: usize, causal: bool) -> Result<(Tensor, Vec<Tensor>)> {
    gpu::forward(&Shape::check([q, k, v], heads, causal)?, [q, k, v])
}

/// The gradients of q, k and v on a GPU, from what [`on_gpu`] gave.
#[cfg(all(test, feature = "simulator"))]
pub fn gradients_on_gpu(
    x: [&Tensor; 3],
    saved: &[Tensor],
    dy: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<[Option<Tensor>; 3]> {
    gpu::backward(&Shape::check(x, heads, causal)?, x, saved, dy, [true; 3])
}

/// `q` `[n, tq, heads * size]`, `k` and `v` `[n, tk, heads * size]`.
#[derive(Clone, Copy, Debug)]
struct Shape {
    n: usize,
    tq: usize,
    tk: usize,
    heads: usize,
    size: usize,
    /// Whether row `i` sees keys `0..=i` only.
    causal: bool,
}

impl Shape {
    fn check([q, k, v]: [&Tensor; 3], heads: usize, causal: bool) -> Result<Self> {
        float(OP, q)?;
        let [n, tq, c] = q.dims(OP)?;
        let [_, tk, _] = k.dims(OP)?;
        let fits = |x: &Tensor| x.shape() == [n, tk, c] && x.dtype() == q.dtype();
        if !fits(k) || !fits(v) || heads == 0 || c % heads != 0 || q.is_empty() || tk == 0 {
            return Err(Error::shape(OP, format!("{heads} heads over {q:?}, {k:?} and {v:?}")));
        }
        Ok(Self { n, tq, tk, heads, size: c / heads, causal })
    }
}
