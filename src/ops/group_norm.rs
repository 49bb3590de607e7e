//! GroupNorm over `[n, h, w, c]`, optionally followed by SiLU in the same pass.

use super::elementwise::float;
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::cpu::group_norm::Norm;
use crate::device::gpu::group_norm::GroupNorm as Launch;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Normalises each of `groups` channel groups of `x` `[n, h, w, c]`, scales and shifts each channel by `weight` and
/// `bias` `[c]` (f32, or f64 for an f64 `x`), then applies SiLU where `silu` is set. The backward pass computes what
/// SiLU read once more instead of keeping it.
pub fn group_norm(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    const OP: &str = "group_norm";
    float(OP, x)?;
    let [n, h, w, c] = x.dims(OP)?;
    if x.is_empty() || groups == 0 || c % groups != 0 || weight.shape() != [c] || bias.shape() != [c] {
        return Err(Error::shape(OP, format!("{groups} groups, weight {weight:?} and bias {bias:?} do not fit {x:?}")));
    }
    if on_gpu::holds(OP, &[x, weight, bias])? {
        let norm = Launch { n, pixels: h * w, c, groups, eps: eps as f32, silu };
        return on_gpu::group_norm(tape, x, weight, bias, norm);
    }
    let norm = Norm { pixels: h * w, c, groups, silu };
    dispatch!(x.dtype(), T => {
        let (out, statistics) = norm.forward::<T>(x, weight, bias, eps);
        let (x_saved, w_saved, b_saved) = (x.clone(), weight.clone(), bias.clone());
        tape.record(OP, [x, weight, bias], &out, move |dy, wants| {
            Ok(norm.backward(&x_saved, &w_saved, &b_saved, &statistics, dy, wants))
        });
        Ok(out)
    })
}
