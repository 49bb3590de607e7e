//! LayerNorm over the last dimension.

mod cpu;
mod gpu;

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float};

const OP: &str = "layer_norm";

/// Normalises each row of `x` `[.., c]`, then scales and shifts by `weight` and `bias` `[c]` (f32, or f64 for an f64 `x`).
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn layer_norm(tape: &Tape, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let shape = Shape::check(x, weight, bias, eps)?;
    let device = device_of(OP, &[x, weight, bias])?;
    let (y, statistics) = on!(device, forward(&shape, x, weight, bias))?;
    let saved = [x, weight].map(Tensor::clone);
    tape.record_onto(OP, [x, weight, bias], &y, move |dy, wants, onto| {
        let [x, weight] = &saved;
        on!(device, backward(&shape, x, weight, &statistics, (dy, onto), wants))
    });
    Ok(y)
}

/// What is normalised: `[rows, c]`.
struct Shape {
    rows: usize,
    c: usize,
    eps: f64,
}

impl Shape {
    fn check(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Self> {
        float(OP, x)?;
        let (rows, c) = x.rows(OP)?;
        if c == 0 || weight.shape() != [c] || bias.shape() != [c] {
            return Err(Error::shape(OP, format!("weight {weight:?} and bias {bias:?} do not fit {x:?}")));
        }
        Ok(Self { rows, c, eps })
    }
}
