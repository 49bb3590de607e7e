//! Pointwise ops and their gradients.

use rayon::prelude::*;

use super::on_gpu::{self, Activation};
use crate::autograd::Tape;
use crate::device::cpu::math::{Elementary, vectorized};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{DType, Real, Tensor, buffer};
pub(super) use crate::tensor::{float, map, same, zip};

/// Elements that one task works on.
const CHUNK: usize = 1 << 13;

/// `x + y`, same shape and dtype.
pub fn add(tape: &Tape, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let out = x.sum(y)?;
    tape.record("add", [x, y], &out, |dy, wants| Ok(wants.map(|wanted| wanted.then(|| dy.clone()))));
    Ok(out)
}

/// `factor * x`.
pub fn scale(tape: &Tape, x: &Tensor, factor: f64) -> Result<Tensor> {
    float("scale", x)?;
    if on_gpu::holds("scale", &[x])? {
        return on_gpu::scale(tape, x, factor);
    }
    let times = move |x: &Tensor| {
        dispatch!(x.dtype(), T => {
            let factor = T::from_f64(factor);
            map::<T>(x, #[inline(always)] |x| x * factor)
        })
    };
    let out = times(x);
    tape.record("scale", [x], &out, move |dy, _| Ok([Some(times(dy))]));
    Ok(out)
}

/// `x` `[n, h, w, c]` plus one value a sample and channel, `t` `[n, c]`.
pub fn add_channel_bias(tape: &Tape, x: &Tensor, t: &Tensor) -> Result<Tensor> {
    const OP: &str = "add_channel_bias";
    let [n, h, w, c] = x.dims(OP)?;
    if t.shape() != [n, c] || t.dtype() != x.dtype() || !x.dtype().is_float() {
        return Err(Error::shape(OP, format!("{t:?} does not fit {x:?}: expected [n, c]")));
    }
    let pixels = h * w;
    if on_gpu::holds(OP, &[x, t])? {
        return on_gpu::add_channel_bias(tape, x, t, [n, pixels, c]);
    }
    let out = dispatch!(x.dtype(), T => add_channels::<T>(x, t, pixels, c));
    tape.record(OP, [x, t], &out, move |dy, [wants_x, wants_t]| {
        let dt = wants_t.then(|| dispatch!(dy.dtype(), T => sum_pixels::<T>(dy, n, pixels, c)));
        Ok([wants_x.then(|| dy.clone()), dt])
    });
    Ok(out)
}

fn add_channels<T: Real>(x: &Tensor, t: &Tensor, pixels: usize, c: usize) -> Tensor {
    let (xs, ts) = (x.reals::<T>(), t.reals::<T>());
    let mut out = buffer::<T>(xs.len());
    let samples = out.par_chunks_mut((pixels * c).max(1)).zip(xs.par_chunks((pixels * c).max(1)));
    samples.zip(ts.par_chunks(c.max(1))).for_each(|((out, x), t)| {
        let rows = (CHUNK / c).max(1) * c;
        out.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(out, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        out.iter_mut().zip(x).zip(t).for_each(|((y, &x), &t)| *y = x + t);
                    }
                },
            );
        });
    });
    Tensor::from_reals(out, x.shape(), x.dtype())
}

/// `[n, pixels, c]` -> `[n, c]`, each channel added up in the order of the pixels.
fn sum_pixels<T: Real>(x: &Tensor, n: usize, pixels: usize, c: usize) -> Tensor {
    const CHANNELS: usize = 64;
    let xs = x.reals::<T>();
    let mut out = vec![T::default(); n * c];
    out.par_chunks_mut(c.max(1)).enumerate().for_each(|(i, out)| {
        let sample = &xs[i * pixels * c..][..pixels * c];
        out.par_chunks_mut(CHANNELS).enumerate().for_each(|(j, out)| {
            vectorized(
                #[inline(always)]
                || {
                    for row in sample.chunks_exact(c) {
                        for (sum, &x) in out.iter_mut().zip(&row[j * CHANNELS..]) {
                            *sum += x;
                        }
                    }
                },
            );
        });
    });
    Tensor::from_reals(out, &[n, c], x.dtype())
}

/// `x sigmoid(x)`.
pub fn silu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    float("silu", x)?;
    if on_gpu::holds("silu", &[x])? {
        return on_gpu::activation(tape, Activation::Silu, x);
    }
    let out = dispatch!(x.dtype(), T => map::<T>(x, #[inline(always)] |x| x.silu()));
    let saved = x.clone();
    tape.record("silu", [x], &out, move |dy, _| {
        let x = &saved;
        let dx = dispatch!(x.dtype(), T => zip::<T>(x, dy, #[inline(always)] |x, dy| dy * x.silu_slope()));
        Ok([Some(dx)])
    });
    Ok(out)
}

/// Exact (erf) GELU.
pub fn gelu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    float("gelu", x)?;
    if on_gpu::holds("gelu", &[x])? {
        return on_gpu::activation(tape, Activation::Gelu, x);
    }
    let out = dispatch!(x.dtype(), T => map::<T>(x, #[inline(always)] |x| x.gelu()));
    let saved = x.clone();
    tape.record("gelu", [x], &out, move |dy, _| {
        let x = &saved;
        let dx = dispatch!(x.dtype(), T => zip::<T>(x, dy, #[inline(always)] |x, dy| dy * x.gelu_and_slope().1));
        Ok([Some(dx)])
    });
    Ok(out)
}

/// `x sigmoid(1.702 x)`.
pub fn quick_gelu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    const SLOPE: f64 = 1.702;
    float("quick_gelu", x)?;
    if on_gpu::holds("quick_gelu", &[x])? {
        return on_gpu::activation(tape, Activation::QuickGelu, x);
    }
    let out = dispatch!(x.dtype(), T => {
        let a = T::from_f64(SLOPE);
        map::<T>(x, #[inline(always)] |x| x * (a * x).sigmoid())
    });
    let saved = x.clone();
    tape.record("quick_gelu", [x], &out, move |dy, _| {
        // x s(ax) = silu(ax) / a, whose slope in x is silu's at ax.
        let x = &saved;
        let dx = dispatch!(x.dtype(), T => {
            let a = T::from_f64(SLOPE);
            zip::<T>(x, dy, #[inline(always)] |x, dy| dy * (a * x).silu_slope())
        });
        Ok([Some(dx)])
    });
    Ok(out)
}

/// The same values in another type, rounded to nearest even; the tensor itself where nothing changes. Records nothing.
///
/// # Errors
/// [`Error::Shape`] on a GPU for a type that it has not.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if dtype != x.dtype() && on_gpu::holds("cast", &[x])? {
        return on_gpu::cast(x, dtype);
    }
    Ok(x.cast(dtype))
}
