//! Linear layers with a LoRA.

pub(super) mod cpu;
pub(super) mod gpu;
mod gradient;
mod order;

use super::linear::{self, Source};
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of};
pub(super) use gradient::Saved;
use order::Order;
pub use order::{LoraOrder, LoraSizes};

const OP: &str = "lora_linear";

/// What a layer has besides its weight: `scale (x A^T) B^T`, `a` `[r, in]`, `b` `[out, r]`. Several experts at once are
/// one `a` and one `b` with the ranks stacked and the scales folded into `b`.
#[derive(Clone, Copy)]
pub struct LoraLayer<'a> {
    pub a: &'a Tensor,
    pub b: &'a Tensor,
    pub scale: f64,
    pub order: LoraOrder,
}

/// `x W^T + b + scale (x A^T) B^T` (Hu et al. 2021, arXiv:2106.09685): `x` `[.., in]`, `weight` `[out, in]`, `bias`
/// `[out]` -> `[.., out]`. On a GPU `x A^T` and its gradient are rounded to the storage type, since tensor cores multiply
/// them, and so is a merged weight everywhere.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn lora_linear(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    lora: LoraLayer<'_>,
) -> Result<Tensor> {
    Inputs { source: Source { x, between: None }, weight, bias, residual: None, lora }.layer(tape)
}

/// What enters a layer.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub source: Source<'a>,
    pub weight: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    /// Added to the result.
    pub residual: Option<&'a Tensor>,
    pub lora: LoraLayer<'a>,
}

/// What the forward pass makes of a LoRA.
pub(super) enum Branch {
    /// `W + scale B A`, stored as the weight is.
    Merged(Tensor),
    /// `scale x A^T`, `[.., r]`.
    Beside(Tensor),
}

impl Inputs<'_> {
    /// The layer's result, recorded.
    pub fn layer(self, tape: &Tape) -> Result<Tensor> {
        let (device, order) = self.check(tape)?;
        let Self { source: Source { x, .. }, weight, bias, residual, lora: LoraLayer { a, b, scale, .. } } = self;
        let (branch, y) = if order.merged {
            let merged = on!(device, merged(weight, a, b, scale))?;
            let y = on!(device, forward(x, &merged, None, bias, residual))?;
            (Branch::Merged(merged), y)
        } else {
            let h = on!(device, hidden(x, a, scale))?;
            let y = on!(device, forward(x, weight, Some([&h, b]), bias, residual))?;
            (Branch::Beside(h), y)
        };
        self.record(tape, device, order, branch, &y);
        Ok(y)
    }

    /// Where the layer is computed, and in which order.
    pub fn check(self, tape: &Tape) -> Result<(Device, Order)> {
        let Self { source, weight, bias, residual, lora: LoraLayer { a, b, order, .. } } = self;
        let x = source.x;
        linear::check(OP, x, weight, bias, residual)?;
        let ([out, width], [rank, a_width]) = (weight.dims(OP)?, a.dims(OP)?);
        if a_width != width || b.shape() != [out, rank] {
            let expected = format!("expected [rank, {width}] and [{out}, rank]");
            let message = format!("a {a:?} and b {b:?} do not fit a weight of shape [{out}, {width}]; {expected}");
            return Err(Error::shape(OP, message));
        }
        let inputs: Vec<&Tensor> = [x, weight, a, b].into_iter().chain(bias).chain(residual).collect();
        let device = device_of(OP, &inputs)?;
        let sizes = LoraSizes {
            rows: x.rows(OP)?.0,
            width,
            out,
            rank,
            wants_dx: tape.wants(source.recorded()),
            wants_factors: tape.wants(a) || tape.wants(b),
        };
        let order = order.taken(&sizes, &device, x.dtype()).exact(&sizes, x.dtype());
        Ok((device, order))
    }

    /// Records a layer whose result is there.
    pub fn record(self, tape: &Tape, device: Device, order: Order, branch: Branch, y: &Tensor) {
        let saved = self.saved(tape, device, order, branch);
        let Self { source, weight, bias, residual, lora: LoraLayer { a, b, .. } } = self;
        let inputs = [Some(source.recorded()), Some(weight), Some(a), Some(b), bias, residual];
        tape.record_late(OP, inputs, y, move |dy, wants, onto| saved.gradients(dy, wants, onto, None));
    }
}
