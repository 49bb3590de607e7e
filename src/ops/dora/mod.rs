//! Weight-decomposed LoRA (DoRA, Liu et al. 2024, arXiv:2402.09353): rows of a layer's weight have a length that is trained, and a
//! direction that a LoRA changes. The gradient takes the present length as a constant (section 4.3 there), as peft does.

mod cpu;
mod gpu;

use super::sums::sum_rows;
use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of};

const OP: &str = "dora";

/// The length of each row of `weight + scale b a`: `weight` `[out, ..]`, `a` `[r, ..]`, `b` `[out, r]` -> `[out]`, f32, or f64 of
/// f64. Records nothing.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn dora_norm(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let (out, rank) = (weight.shape().first().copied().unwrap_or(0), a.shape().first().copied().unwrap_or(0));
    if weight.shape().len() < 2 || a.shape()[1..] != weight.shape()[1..] || *b.shape() != [out, rank] {
        return Err(Error::shape(OP, format!("a {a:?} and b {b:?} do not fit a weight {weight:?}")));
    }
    on!(device_of(OP, &[weight, a, b])?, norms(weight, a, b, scale))
}

/// `z magnitude / norm + bias + residual`, the first two by channel: `z` `[.., out]` is what weight and LoRA make without a bias,
/// `magnitude`, `norm` and `bias` are `[out]`, `residual` is like `z`. `norm` is a constant.
///
/// # Errors
/// As [`dora_norm`].
pub fn dora(
    tape: &Tape,
    z: &Tensor,
    magnitude: &Tensor,
    norm: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let out = z.rows(OP)?.1;
    let vectors = [Some(magnitude), Some(norm), bias].into_iter().flatten();
    if let Some(wrong) = vectors.clone().find(|vector| *vector.shape() != [out]) {
        return Err(Error::shape(OP, format!("{wrong:?} does not fit {z:?}: expected [{out}]")));
    }
    if let Some(residual) = residual.filter(|residual| residual.shape() != z.shape() || residual.dtype() != z.dtype()) {
        return Err(Error::shape(OP, format!("{residual:?} is not like {z:?}")));
    }
    let all: Vec<&Tensor> = [z].into_iter().chain(vectors).chain(residual).collect();
    let device = device_of(OP, &all)?;
    let y = on!(device, forward(z, magnitude, norm, bias, residual))?;
    let (z_saved, magnitude_saved, norm) = (z.clone(), magnitude.clone(), norm.clone());
    let inputs = [Some(z), Some(magnitude), bias, residual];
    tape.record(OP, inputs, &y, move |dy, [wants_z, wants_magnitude, wants_bias, wants_residual]| {
        let (rows, out) = dy.rows(OP)?;
        Ok([
            wants_z.then(|| on!(device, input_gradient(dy, &magnitude_saved, &norm))).transpose()?,
            wants_magnitude.then(|| on!(device, magnitude_gradient(dy, &z_saved, &norm))).transpose()?,
            wants_bias.then(|| sum_rows(dy, [rows, out])).transpose()?,
            wants_residual.then(|| dy.clone()),
        ])
    });
    Ok(y)
}
