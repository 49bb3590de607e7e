//! Pointwise ops and their gradients.

mod cpu;
mod gpu;

use super::sums::sum_pixels;
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::{Error, Result};
pub(super) use crate::tensor::float;
use crate::tensor::{DType, Tensor, device_of};

/// `x + y`, same shape and dtype.
///
/// # Errors
/// [`Error::Shape`] where shapes, dtypes or devices differ; what a GPU says, here and below.
pub fn add(tape: &Tape, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let out = x.sum(y)?;
    tape.record("add", [x, y], &out, |dy, wants| Ok(wants.map(|wanted| wanted.then(|| dy.clone()))));
    Ok(out)
}

/// `factor * x`.
///
/// # Errors
/// [`Error::Shape`] for integers.
pub fn scale(tape: &Tape, x: &Tensor, factor: f64) -> Result<Tensor> {
    const OP: &str = "scale";
    float(OP, x)?;
    let device = device_of(OP, &[x])?;
    let y = on!(device, scale(x, factor))?;
    tape.record(OP, [x], &y, move |dy, _| Ok([Some(on!(device, scale(dy, factor))?)]));
    Ok(y)
}

/// `x` `[n, h, w, c]` plus one value a sample and channel, `t` `[n, c]`.
///
/// # Errors
/// [`Error::Shape`] where the two do not fit.
pub fn add_channel_bias(tape: &Tape, x: &Tensor, t: &Tensor) -> Result<Tensor> {
    const OP: &str = "add_channel_bias";
    let [n, h, w, c] = x.dims(OP)?;
    if t.shape() != [n, c] || t.dtype() != x.dtype() || !x.dtype().is_float() {
        return Err(Error::shape(OP, format!("{t:?} does not fit {x:?}: expected [n, c]")));
    }
    let (sizes, device) = ([n, h * w, c], device_of(OP, &[x, t])?);
    let y = on!(device, add_channel_bias(x, t, sizes))?;
    tape.record(OP, [x, t], &y, move |dy, [wants_x, wants_t]| {
        let dt = wants_t.then(|| sum_pixels(dy, sizes)).transpose()?;
        Ok([wants_x.then(|| dy.clone()), dt])
    });
    Ok(y)
}

/// `x sigmoid(x)`.
///
/// # Errors
/// [`Error::Shape`] for integers, here and below.
pub fn silu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    activation(tape, Activation::Silu, x)
}

/// Exact (erf) GELU.
///
/// # Errors
/// As [`silu`].
pub fn gelu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    activation(tape, Activation::Gelu, x)
}

/// `x sigmoid(1.702 x)`.
///
/// # Errors
/// As [`silu`].
pub fn quick_gelu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    activation(tape, Activation::QuickGelu, x)
}

/// A function of one value.
#[derive(Clone, Copy)]
enum Activation {
    Silu,
    Gelu,
    QuickGelu,
}

fn activation(tape: &Tape, f: Activation, x: &Tensor) -> Result<Tensor> {
    let op = match f {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
    };
    float(op, x)?;
    let device = device_of(op, &[x])?;
    let y = on!(device, activation(f, x))?;
    let saved = x.clone();
    tape.record(op, [x], &y, move |dy, _| Ok([Some(on!(device, activation_gradient(f, &saved, dy))?)]));
    Ok(y)
}

/// The same values in another type, rounded to nearest even; the tensor itself where nothing changes. Records nothing.
///
/// # Errors
/// [`Error::Shape`] on a GPU for a type that it has not.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    match device_of("cast", &[x])? {
        Device::Gpu(_) if dtype != x.dtype() => gpu::cast(x, dtype),
        _ => Ok(x.cast(dtype)),
    }
}
