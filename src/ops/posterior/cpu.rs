//! The CPU bodies.

use rayon::prelude::*;

use super::LOG_VARIANCE;
use crate::device::cpu::math::Elementary;
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Tensor, buffer};

/// Positions that one task works on, and one partial sum covers.
const ROWS: usize = 256;

pub fn sample(moments: &Tensor, noise: &Tensor, c: usize) -> Result<Tensor> {
    Ok(dispatch!(moments.dtype(), T => draw::<T>(moments, noise, c)))
}

/// dmean = dz, dlog_variance = dz noise exp(log_variance / 2) / 2
pub fn sample_backward(moments: &Tensor, noise: &Tensor, dz: &Tensor, c: usize) -> Result<Tensor> {
    Ok(dispatch!(dz.dtype(), T => draw_backward::<T>(moments, noise, dz, c)))
}

pub fn divergence(moments: &Tensor, c: usize) -> Result<Tensor> {
    let mean = dispatch!(moments.dtype(), T => mean_divergence::<T>(moments, c));
    Ok(Tensor::full(&[], mean, moments.dtype().master_dtype()))
}

/// dmean = mean / count, dlog_variance = (exp(log_variance) - 1) / (2 count)
pub fn divergence_backward(moments: &Tensor, c: usize, dy: &Tensor) -> Result<Tensor> {
    Ok(dispatch!(moments.dtype(), T => mean_divergence_backward::<T>(moments, c, dy.item())))
}

fn draw<T: Elementary>(moments: &Tensor, noise: &Tensor, c: usize) -> Tensor {
    let (ms, ns) = (moments.reals::<T>(), noise.reals::<T>());
    let mut out = buffer::<T>(ns.len());
    let inputs = ms.par_chunks(ROWS * 2 * c).zip(ns.par_chunks(ROWS * c));
    out.par_chunks_mut(ROWS * c).zip(inputs).for_each(|(out, (ms, ns))| {
        let inputs = ms.chunks_exact(2 * c).zip(ns.chunks_exact(c));
        for (out, (m, n)) in out.chunks_exact_mut(c).zip(inputs) {
            let (mean, log_variance) = m.split_at(c);
            for i in 0..c {
                out[i] = mean[i] + deviation(limited(log_variance[i]).0) * n[i];
            }
        }
    });
    Tensor::from_reals(out, noise.shape(), noise.dtype())
}

fn draw_backward<T: Elementary>(moments: &Tensor, noise: &Tensor, dz: &Tensor, c: usize) -> Tensor {
    let (ms, ns, dzs) = (moments.reals::<T>(), noise.reals::<T>(), dz.reals::<T>());
    let mut dm = buffer::<T>(ms.len());
    let inputs = ms.par_chunks(ROWS * 2 * c).zip(ns.par_chunks(ROWS * c)).zip(dzs.par_chunks(ROWS * c));
    dm.par_chunks_mut(ROWS * 2 * c).zip(inputs).for_each(|(dm, ((ms, ns), dzs))| {
        let inputs = ms.chunks_exact(2 * c).zip(ns.chunks_exact(c)).zip(dzs.chunks_exact(c));
        for (dm, ((m, n), dz)) in dm.chunks_exact_mut(2 * c).zip(inputs) {
            let (dmean, dlog_variance) = dm.split_at_mut(c);
            dmean.copy_from_slice(dz);
            for i in 0..c {
                dlog_variance[i] = match limited(m[c + i]) {
                    (l, true) => dz[i] * n[i] * T::from_f64(0.5) * deviation(l),
                    _ => T::default(),
                };
            }
        }
    });
    Tensor::from_reals(dm, moments.shape(), moments.dtype())
}

fn mean_divergence<T: Elementary>(moments: &Tensor, c: usize) -> f64 {
    let ms = moments.reals::<T>();
    let of = |m: &[T]| -> f64 {
        let one = |i: usize| {
            let (mean, l) = (m[i].to_f64(), limited(m[c + i]).0);
            mean * mean + l.exp().to_f64() - 1.0 - l.to_f64()
        };
        (0..c).map(one).sum()
    };
    let partial: Vec<f64> = ms.par_chunks(ROWS * 2 * c).map(|ms| ms.chunks_exact(2 * c).map(of).sum()).collect();
    partial.iter().sum::<f64>() / ms.len() as f64
}

fn mean_divergence_backward<T: Elementary>(moments: &Tensor, c: usize, dy: f64) -> Tensor {
    let ms = moments.reals::<T>();
    let (one, half) = (T::from_f64(1.0), T::from_f64(0.5));
    let factor = T::from_f64(2.0 * dy / ms.len() as f64);
    let mut dm = buffer::<T>(ms.len());
    dm.par_chunks_mut(ROWS * 2 * c).zip(ms.par_chunks(ROWS * 2 * c)).for_each(|(dm, ms)| {
        for (dm, m) in dm.chunks_exact_mut(2 * c).zip(ms.chunks_exact(2 * c)) {
            for i in 0..c {
                dm[i] = factor * m[i];
                dm[c + i] = match limited(m[c + i]) {
                    (l, true) => factor * half * (l.exp() - one),
                    _ => T::default(),
                };
            }
        }
    });
    Tensor::from_reals(dm, moments.shape(), moments.dtype())
}

fn deviation<T: Elementary>(log_variance: T) -> T {
    (log_variance * T::from_f64(0.5)).exp()
}

/// The log variance inside its range, and whether it was.
fn limited<T: Elementary>(log_variance: T) -> (T, bool) {
    let (low, high) = (T::from_f64(LOG_VARIANCE.0), T::from_f64(LOG_VARIANCE.1));
    if log_variance < low {
        (low, false)
    } else if log_variance > high {
        (high, false)
    } else {
        (log_variance, true)
    }
}
