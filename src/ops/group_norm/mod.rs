//! GroupNorm over `[n, h, w, c]`, optionally followed by SiLU in the same pass.

mod cpu;
mod gpu;

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float};

const OP: &str = "group_norm";

/// Normalises each of `groups` channel groups of `x` `[n, h, w, c]`, scales and shifts each channel by `weight` and
/// `bias` `[c]` (f32, or f64 for an f64 `x`), then applies SiLU where `silu` is set. The backward pass computes what
/// SiLU read once more instead of keeping it.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn group_norm(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    let shape = Shape::check(x, weight, bias, groups, eps, silu)?;
    let device = device_of(OP, &[x, weight, bias])?;
    let (y, statistics) = on!(device, forward(&shape, x, weight, bias))?;
    let saved = [x, weight, bias].map(Tensor::clone);
    tape.record_onto(OP, [x, weight, bias], &y, move |dy, wants, onto| {
        let [x, weight, bias] = &saved;
        on!(device, backward(&shape, x, weight, bias, &statistics, (dy, onto), wants))
    });
    Ok(y)
}

/// What is normalised: `[n, pixels, c]`.
struct Shape {
    n: usize,
    pixels: usize,
    c: usize,
    groups: usize,
    eps: f64,
    /// Whether SiLU follows.
    silu: bool,
}

impl Shape {
    fn check(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64, silu: bool) -> Result<Self> {
        float(OP, x)?;
        let [n, h, w, c] = x.dims(OP)?;
        if x.is_empty() || groups == 0 || c % groups != 0 || weight.shape() != [c] || bias.shape() != [c] {
            let parameters = format!("{groups} groups, weight {weight:?} and bias {bias:?}");
            return Err(Error::shape(OP, format!("{parameters} do not fit {x:?}")));
        }
        Ok(Self { n, pixels: h * w, c, groups, eps, silu })
    }
}
