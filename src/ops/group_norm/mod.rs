//! GroupNorm over `[n, h, w, c]`, optionally followed by SiLU in the same pass.

mod cpu;
mod gpu;

use super::rows::slice_channels;
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
    let shape = Shape::check(x, x.dims(OP)?, [weight, bias], groups, eps, silu)?;
    let device = device_of(OP, &[x, weight, bias])?;
    let (y, statistics) = on!(device, forward(&shape, x, weight, bias))?;
    let saved = [x, weight, bias].map(Tensor::clone);
    tape.record_onto(OP, [x, weight, bias], &y, move |dy, wants, onto| {
        let [x, weight, bias] = &saved;
        on!(device, backward(&shape, x, weight, bias, &statistics, (dy, onto), wants))
    });
    Ok(y)
}

/// [`group_norm`] of `x` `[n, h, w, a]` and a skip connection, `skip` `[n, h, w, b]`, side by side, and the two so, `[n, h, w, a + b]`,
/// which the backward pass and others read. On a GPU no pass only copies: the one that reads x and skip for their statistics puts
/// them side by side, and that of the gradient parts it.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_concat(
    tape: &Tape,
    [x, skip]: [&Tensor; 2],
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<[Tensor; 2]> {
    let ([n, h, w, a], [others, height, width, b]) = (x.dims(OP)?, skip.dims(OP)?);
    if [n, h, w] != [others, height, width] || skip.dtype() != x.dtype() {
        return Err(Error::shape(OP, format!("{x:?} and {skip:?} differ before the last dimension")));
    }
    let shape = Shape::check(x, [n, h, w, a + b], [weight, bias], groups, eps, silu)?;
    let device = device_of(OP, &[x, skip, weight, bias])?;
    let (y, both, statistics) = on!(device, forward_concat(&shape, [x, skip], weight, bias))?;
    let saved = [&both, weight, bias].map(Tensor::clone);
    let (inputs, outputs) = ([x, skip, weight, bias].map(Some), [y, both]);
    tape.record_many(OP, &inputs, &outputs, move |gradients, wants, onto| {
        let [both, parameters @ ..] = saved.each_ref();
        let wants: [bool; 4] = std::array::from_fn(|i| wants[i]);
        let of_both = gradients[1].clone();
        let [dx, dskip, dweight, dbias] = match &gradients[0] {
            Some(dy) => {
                on!(device, backward_concat(&shape, both, [a, b], parameters, &statistics, (dy, of_both), wants))?
            }
            None => {
                let part = |wanted: bool, start, width| match &of_both {
                    Some(of_both) if wanted => slice_channels(&Tape::off(), of_both, start, width).map(Some),
                    _ => Ok(None),
                };
                [part(wants[0], 0, a)?, part(wants[1], a, b)?, None, None]
            }
        };
        let dx = dx.map(|dx| dx.added_onto(onto)).transpose()?;
        Ok((vec![dx, dskip, dweight, dbias], Vec::new()))
    });
    Ok(outputs)
}

fn channels(x: &Tensor) -> usize {
    x.shape().last().copied().unwrap_or(0)
}

/// The shape of `x` with other channels.
fn with_channels(x: &Tensor, c: usize) -> Vec<usize> {
    let pixels = &x.shape()[..x.shape().len() - 1];
    [pixels, &[c]].concat()
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
    /// Of a tensor of these sizes, of which `x` is the first part or all.
    fn check(
        x: &Tensor,
        [n, h, w, c]: [usize; 4],
        [weight, bias]: [&Tensor; 2],
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> Result<Self> {
        float(OP, x)?;
        if n * h * w * c == 0 || groups == 0 || c % groups != 0 || weight.shape() != [c] || bias.shape() != [c] {
            let parameters = format!("{groups} groups, weight {weight:?} and bias {bias:?}");
            return Err(Error::shape(OP, format!("{parameters} do not fit {x:?}")));
        }
        Ok(Self { n, pixels: h * w, c, groups, eps, silu })
    }
}
