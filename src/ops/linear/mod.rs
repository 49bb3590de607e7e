//! Linear layers.

pub(super) mod cpu;
pub(super) mod gpu;
mod group;

use super::geglu;
use super::lora::{self, LoraLayer};
use super::matmul::{shaped, sizes};
use super::sums::sum_rows;
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float};
pub use group::linear_group;

const OP: &str = "linear";

/// A linear layer's tensors: `weight` `[out, in]`, `bias` `[out]`, and the LoRA that it has besides.
#[derive(Clone, Copy)]
pub struct LinearLayer<'a> {
    pub weight: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub lora: Option<LoraLayer<'a>>,
}

/// What a layer multiplies.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub x: &'a Tensor,
    /// Where x is [`geglu`](super::geglu()) of this, the layer's gradient is that of this.
    pub between: Option<&'a Tensor>,
}

impl<'a> Source<'a> {
    /// What the tape has the gradient of.
    pub fn recorded(self) -> &'a Tensor {
        self.between.unwrap_or(self.x)
    }
}

/// The gradient of what a layer multiplies, `dy W` and `second`'s product, or of what is before its gate, `between`.
pub(super) fn source_gradient(
    device: &Device,
    dy: &Tensor,
    weight: &Tensor,
    second: Option<[&Tensor; 2]>,
    between: Option<&Tensor>,
    onto: Option<Tensor>,
) -> Result<Tensor> {
    match between {
        None => on!(device, input_gradient(dy, weight, second, onto)),
        Some(between) => geglu::before_gate(device, dy, weight, second, between)?.added_onto(onto),
    }
}

/// `x W^T + b`: `x` `[.., in]`, `weight` `[out, in]`, `bias` `[out]` -> `[.., out]`. On a GPU the bias is f32, as are the
/// gradients of weight and bias everywhere but for an f64 `x`.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn linear(tape: &Tape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    Source { x, between: None }.layer(tape, weight, bias, None)
}

/// `residual + x W^T + b`, and what a LoRA adds to the layer: on a GPU in one pass over the result.
///
/// # Errors
/// As [`linear`].
pub fn linear_residual(
    tape: &Tape,
    residual: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    lora: Option<LoraLayer<'_>>,
) -> Result<Tensor> {
    Source { x, between: None }.any_layer(tape, LinearLayer { weight, bias, lora }, Some(residual))
}

impl Source<'_> {
    /// A layer with or without a LoRA.
    pub fn any_layer(self, tape: &Tape, layer: LinearLayer<'_>, residual: Option<&Tensor>) -> Result<Tensor> {
        let LinearLayer { weight, bias, lora } = layer;
        match lora {
            None => self.layer(tape, weight, bias, residual),
            Some(lora) => lora::Inputs { source: self, weight, bias, residual, lora }.layer(tape),
        }
    }

    fn layer(self, tape: &Tape, weight: &Tensor, bias: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
        let x = self.x;
        check(OP, x, weight, bias, residual)?;
        let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).chain(residual).collect();
        let device = device_of(OP, &inputs)?;
        let y = on!(device, forward(x, weight, None, bias, residual))?;
        record(tape, device, self, weight, bias, residual, &y);
        Ok(y)
    }
}

/// Records a layer whose result is there.
pub(super) fn record(
    tape: &Tape,
    device: Device,
    source: Source<'_>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    y: &Tensor,
) {
    // Only the gradient of the weight reads `x`: a frozen layer does not keep it.
    let (x_saved, w) = (tape.wants(weight).then(|| source.x.clone()), weight.clone());
    let between = source.between.cloned();
    let inputs = [Some(source.recorded()), Some(weight), bias, residual];
    tape.record_onto(OP, inputs, y, move |dy, [wants_x, _, wants_bias, wants_residual], onto| {
        let dx = wants_x.then(|| source_gradient(&device, dy, &w, None, between.as_ref(), onto)).transpose()?;
        let dw = x_saved.map(|x| on!(device, weight_gradient(dy, &x, w.dtype()))).transpose()?;
        let db = wants_bias.then(|| sum_rows(dy, sizes(dy))).transpose()?;
        Ok([dx, dw, db, wants_residual.then(|| dy.clone())])
    });
}

/// That `x`, `bias` and `residual` fit a layer with this weight.
pub(super) fn check(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<()> {
    float(op, x)?;
    let [out, width] = weight.dims(op)?;
    let (_, x_width) = x.rows(op)?;
    if x_width != width {
        return Err(Error::shape(op, format!("x {x:?} does not fit a weight of shape [{out}, {width}]")));
    }
    if let Some(bias) = bias.filter(|bias| bias.shape() != [out]) {
        return Err(Error::shape(op, format!("bias {bias:?} does not fit a weight of shape [{out}, {width}]")));
    }
    fitting(op, residual, x, &shaped(x, out)).map(drop)
}

/// `residual`, where it is as the result of the layer will be.
pub(super) fn fitting<'a>(
    op: &'static str,
    residual: Option<&'a Tensor>,
    x: &Tensor,
    shape: &[usize],
) -> Result<Option<&'a Tensor>> {
    if let Some(residual) = residual {
        device_of(op, &[x, residual])?;
        if residual.shape() != shape || residual.dtype() != x.dtype() {
            return Err(Error::shape(op, format!("{residual:?} is not like the result {shape:?} of {x:?}")));
        }
    }
    Ok(residual)
}
