//! The pointwise ops on the CPU.

use rayon::prelude::*;

use super::Activation;
use crate::device::cpu::math::{Elementary, vectorized};
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Real, Tensor, buffer, map, zip};

/// Elements that one task works on.
const CHUNK: usize = 1 << 13;
/// Of quick GELU.
const SLOPE: f64 = 1.702;

pub fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    dispatch!(x.dtype(), T => {
        let factor = T::from_f64(factor);
        Ok(map::<T>(x, #[inline(always)] |x| x * factor))
    })
}

pub fn activation(f: Activation, x: &Tensor) -> Result<Tensor> {
    dispatch!(x.dtype(), T => Ok(match f {
        Activation::Silu => map::<T>(x, #[inline(always)] |x| x.silu()),
        Activation::Gelu => map::<T>(x, #[inline(always)] |x| x.gelu()),
        Activation::QuickGelu => {
            let a = T::from_f64(SLOPE);
            map::<T>(x, #[inline(always)] |x| x * (a * x).sigmoid())
        }
    }))
}

/// `dy f'(x)`.
pub fn activation_gradient(f: Activation, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    dispatch!(x.dtype(), T => Ok(match f {
        Activation::Silu => zip::<T>(x, dy, #[inline(always)] |x, dy| dy * x.silu_slope()),
        Activation::Gelu => zip::<T>(x, dy, #[inline(always)] |x, dy| dy * x.gelu_and_slope().1),
        // x s(ax) = silu(ax) / a, whose slope in x is silu's at ax.
        Activation::QuickGelu => {
            let a = T::from_f64(SLOPE);
            zip::<T>(x, dy, #[inline(always)] |x, dy| dy * (a * x).silu_slope())
        }
    }))
}

/// `x` `[n, pixels, c]` plus `t` `[n, c]`.
pub fn add_channel_bias(x: &Tensor, t: &Tensor, [_, pixels, c]: [usize; 3]) -> Result<Tensor> {
    dispatch!(x.dtype(), T => Ok(add_channels::<T>(x, t, pixels, c)))
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
