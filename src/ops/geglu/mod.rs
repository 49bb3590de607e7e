//! GELU-gated linear units (Shazeer 2020, arXiv:2002.05202).

mod cpu;
pub(super) mod gpu;

use super::linear::{self, LinearLayer, Source, check};
use super::lora::{self, Branch, LoraLayer};
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float};

/// `x` `[.., 2c]` -> `[.., c]`: first half times gelu of the second half.
///
/// # Errors
/// [`Error::Shape`] for integers and an odd last dimension; what a GPU says.
pub fn geglu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "geglu";
    float(OP, x)?;
    if x.rows(OP)?.1 % 2 != 0 {
        return Err(Error::shape(OP, format!("the last dimension of {x:?} is odd")));
    }
    let device = device_of(OP, &[x])?;
    let y = on!(device, geglu(x))?;
    let saved = x.clone();
    tape.record(OP, [x], &y, move |dy, _| Ok([Some(on!(device, gradient(&saved, dy))?)]));
    Ok(y)
}

/// [`geglu`] of `x W^T + b`: `x` `[.., in]`, `weight` `[2c, in]`, `bias` `[2c]` -> `[.., c]`. On the CPU a small frozen layer
/// is computed some rows at a time together with the gate, so that what lies between them and its gradient are read where
/// they were just written. On a GPU the gate follows in the layer's own pass; for a gradient, what lies between them is kept,
/// since a second product costs more than to write and to read it.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn linear_geglu(tape: &Tape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "linear_geglu";
    let layer = LinearLayer { weight, bias, lora: None };
    if let Some(y) = joined(tape, OP, x, layer)? {
        return Ok(y);
    }
    let Gated { y, between } = gated(tape, OP, x, layer)?;
    if let Some(between) = between {
        let device = device_of(OP, &[&between])?;
        let saved = between.clone();
        tape.record(OP, [&between], &y, move |dy, _| Ok([Some(on!(device, gradient(&saved, dy))?)]));
    }
    Ok(y)
}

/// `residual + W2 geglu(W1 x + b1) + b2`, the feed-forward network of a transformer, and what LoRAs add to its layers: `x`
/// `[.., in]`, `residual` `[.., out]`, weights `[2c, in]` and `[out, c]`. The gate is computed in the pass of the first layer,
/// its gradient in that of the second.
///
/// # Errors
/// As [`linear_geglu`].
pub fn gated_feed_forward(
    tape: &Tape,
    residual: &Tensor,
    x: &Tensor,
    first: LinearLayer<'_>,
    second: LinearLayer<'_>,
) -> Result<Tensor> {
    const OP: &str = "gated_feed_forward";
    if let Some(y) = joined(tape, OP, x, first)? {
        return Source { x: &y, between: None }.any_layer(tape, second, Some(residual));
    }
    let Gated { y, between } = gated(tape, OP, x, first)?;
    Source { x: &y, between: between.as_ref() }.any_layer(tape, second, Some(residual))
}

/// The gradient of what is before the gate of a layer's input, from that of the layer's result.
pub(super) fn before_gate(
    device: &Device,
    dy: &Tensor,
    weight: &Tensor,
    second: Option<[&Tensor; 2]>,
    between: &Tensor,
) -> Result<Tensor> {
    on!(device, before_gate(dy, weight, second, between))
}

/// A small frozen layer on the CPU together with its gate, recorded; none for any other.
fn joined(tape: &Tape, op: &'static str, x: &Tensor, layer: LinearLayer<'_>) -> Result<Option<Tensor>> {
    let LinearLayer { weight, bias, lora } = layer;
    let device = fitting(op, x, layer)?;
    let trained = tape.wants(weight) || bias.is_some_and(|bias| tape.wants(bias));
    if device != Device::Cpu || lora.is_some() || trained || weight.is_empty() || !cpu::joins(x, weight) {
        return Ok(None);
    }
    let (y, between) = cpu::linear_geglu(x, weight, bias)?;
    let weight = weight.clone();
    tape.record(op, [x], &y, move |dy, _| Ok([Some(cpu::linear_geglu_gradient(&between, &weight, dy)?)]));
    Ok(Some(y))
}

/// That layer and gate fit, and where they are.
fn fitting(op: &'static str, x: &Tensor, LinearLayer { weight, bias, .. }: LinearLayer<'_>) -> Result<Device> {
    check(op, x, weight, bias, None)?;
    if !weight.shape()[0].is_multiple_of(2) {
        return Err(Error::shape(op, format!("the layer has an odd number of results: {weight:?}")));
    }
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    device_of(op, &inputs)
}

/// A gated layer's result.
struct Gated {
    y: Tensor,
    /// What is before the gate, where a gradient is wanted: the tape has the layer up to here.
    between: Option<Tensor>,
}

fn gated(tape: &Tape, op: &'static str, x: &Tensor, layer: LinearLayer<'_>) -> Result<Gated> {
    let (device, LinearLayer { weight, bias, lora }) = (fitting(op, x, layer)?, layer);
    let source = Source { x, between: None };
    let Some(lora) = lora else {
        let wanted = [Some(x), Some(weight), bias].into_iter().flatten().any(|t| tape.wants(t));
        let (y, between) = on!(device, gated_layer(x, weight, None, bias, wanted))?;
        if let Some(between) = &between {
            linear::record(tape, device, source, weight, bias, None, between);
        }
        return Ok(Gated { y, between });
    };
    let LoraLayer { a, b, scale, .. } = lora;
    let inputs = lora::Inputs { source, weight, bias, residual: None, lora };
    let (device, order) = inputs.check(tape)?;
    let wanted = [Some(x), Some(weight), Some(a), Some(b), bias].into_iter().flatten().any(|t| tape.wants(t));
    let (branch, (y, between)) = if order.merged {
        let merged = on!(device, merged(weight, a, b, scale))?;
        let y = on!(device, gated_layer(x, &merged, None, bias, wanted))?;
        (Branch::Merged(merged), y)
    } else {
        let h = on!(device, hidden(x, a, scale))?;
        let y = on!(device, gated_layer(x, weight, Some([&h, b]), bias, wanted))?;
        (Branch::Beside(h), y)
    };
    if let Some(between) = &between {
        inputs.record(tape, device, order, branch, between);
    }
    Ok(Gated { y, between })
}
