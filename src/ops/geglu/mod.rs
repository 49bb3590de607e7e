//! GELU-gated linear units (Shazeer 2020, arXiv:2002.05202).

mod cpu;
mod gpu;

use super::linear::{check, linear};
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
/// they were just written. On a GPU the gate follows in the layer's own pass where no gradient is wanted; for one, what
/// lies between them is kept, since a second product costs more than to write and to read it.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn linear_geglu(tape: &Tape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "linear_geglu";
    check(OP, x, weight, bias, None)?;
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let device = device_of(OP, &inputs)?;
    let trained = tape.wants(weight) || bias.is_some_and(|bias| tape.wants(bias));
    let joins = match device {
        Device::Cpu => cpu::joins(x, weight),
        Device::Gpu(_) => !tape.wants(x),
    };
    if trained || !joins || !weight.shape()[0].is_multiple_of(2) || weight.is_empty() {
        return geglu(tape, &linear(tape, x, weight, bias)?);
    }
    if device != Device::Cpu {
        return gpu::linear_geglu(x, weight, bias);
    }
    let (y, between) = cpu::linear_geglu(x, weight, bias)?;
    let weight = weight.clone();
    tape.record(OP, [x], &y, move |dy, _| Ok([Some(cpu::linear_geglu_gradient(&between, &weight, dy)?)]));
    Ok(y)
}
