//! Convolution over `[n, h, w, c]`.

mod cpu;
pub(super) mod gpu;
pub(super) mod hopper;
mod upsampled;

use super::linear::fitting;
use super::sums::{sum_pixels, sum_rows};
use crate::autograd::Tape;
use crate::device::conv_shape::ConvShape;
pub use crate::device::conv_shape::Padding;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float};
pub use upsampled::upsample_conv2d;

const OP: &str = "conv2d";

/// `x` `[n, h, w, c_in]`, `weight` `[c_out, kh, kw, c_in]`, `bias` `[c_out]` -> `[n, ho, wo, c_out]`. On a GPU the bias is
/// f32, as are the gradients of weight and bias everywhere but for an f64 `x`.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit, the kernel is larger than the padded image, or the tensors are on several
/// devices; what a GPU says.
pub fn conv2d(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: Padding,
) -> Result<Tensor> {
    conv2d_epilogue(tape, x, weight, bias, stride, padding, Epilogue::default())
}

/// What is added to the result of a convolution; all of it may be missing.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One value a sample and channel, `[n, c_out]`: a time embedding.
    pub channel_bias: Option<&'a Tensor>,
    /// Like the result.
    pub residual: Option<&'a Tensor>,
}

/// [`conv2d`] and what is added to its result: on a GPU in one pass over it.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_epilogue(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: Padding,
    epilogue: Epilogue<'_>,
) -> Result<Tensor> {
    let shape = check(x, weight, bias, stride, padding, epilogue)?;
    let Epilogue { channel_bias, residual } = epilogue;
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).chain(channel_bias).chain(residual).collect();
    let device = device_of(OP, &inputs)?;
    let y = on!(device, forward(&shape, x, weight, bias, epilogue))?;
    // Only the gradient of the weight reads `x`: a frozen layer does not keep it.
    let (saved, w) = (tape.wants(weight).then(|| x.clone()), weight.clone());
    let inputs = [Some(x), Some(weight), bias, channel_bias, residual];
    tape.record(OP, inputs, &y, move |dy, [wants_x, _, wants_bias, wants_channel_bias, wants_residual]| {
        let ConvShape { n, ho, wo, c_out, .. } = shape;
        let dx = wants_x.then(|| on!(device, input_gradient(&shape, dy, &w))).transpose()?;
        let dw = saved.map(|x| on!(device, weight_gradient(&shape, dy, &x, w.dtype()))).transpose()?;
        let db = wants_bias.then(|| sum_rows(dy, [shape.pixels(), c_out])).transpose()?;
        let channels = wants_channel_bias.then(|| sum_pixels(dy, [n, ho * wo, c_out])).transpose()?;
        Ok([dx, dw, db, channels, wants_residual.then(|| dy.clone())])
    });
    Ok(y)
}

fn check(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: Padding,
    epilogue: Epilogue<'_>,
) -> Result<ConvShape> {
    float(OP, x)?;
    let shape = ConvShape::new(x.dims(OP)?, weight.dims(OP)?, stride, padding)?;
    fitting_bias(bias, weight)?;
    fitting(OP, epilogue.channel_bias, x, &[shape.n, shape.c_out])?;
    fitting(OP, epilogue.residual, x, &shape.y())?;
    Ok(shape)
}

/// That there is a value for each output channel.
fn fitting_bias(bias: Option<&Tensor>, weight: &Tensor) -> Result<()> {
    match bias.filter(|bias| bias.shape() != &weight.shape()[..1]) {
        Some(bias) => Err(Error::shape(OP, format!("bias {bias:?} does not fit a weight {weight:?}"))),
        None => Ok(()),
    }
}
