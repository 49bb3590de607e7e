//! The posterior of a variational autoencoder: a draw from it, and its divergence from the standard normal.
//!
//! Source: Kingma & Welling 2014, arXiv:1312.6114, section 2.4 and appendix B.

use rayon::prelude::*;

use super::elementwise::float;
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::cpu::math::Elementary;
pub use crate::device::gpu::posterior::LOG_VARIANCE;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, buffer};

/// Positions that one task works on, and one partial sum covers.
const ROWS: usize = 256;

/// `mean + exp(log_variance / 2) * noise`. `moments` `[.., 2c]` has the mean in its first half and the log variance in
/// its second; `noise` `[.., c]` has its dtype and gets no gradient; the result has the shape of `noise`.
///
/// # Errors
/// [`Error::Shape`] where the two do not fit.
pub fn posterior_sample(tape: &Tape, moments: &Tensor, noise: &Tensor) -> Result<Tensor> {
    const OP: &str = "posterior_sample";
    let c = latent_channels(OP, moments)?;
    tape.refuse(OP, noise)?;
    let rows = moments.len() / (2 * c);
    if noise.rows(OP)? != (rows, c) || moments.dtype() != noise.dtype() {
        let message = format!("{noise:?} is not noise for the moments {moments:?}");
        return Err(Error::shape(OP, message));
    }
    if on_gpu::holds(OP, &[moments, noise])? {
        return on_gpu::posterior_sample(tape, moments, noise, [rows, c]);
    }
    let out = dispatch!(moments.dtype(), T => sample::<T>(moments, noise, c));
    let (saved, saved_noise) = (moments.clone(), noise.clone());
    tape.record(OP, [moments], &out, move |dz, _| {
        Ok([Some(dispatch!(dz.dtype(), T => sample_backward::<T>(&saved, &saved_noise, dz, c)))])
    });
    Ok(out)
}

/// The mean over all latents of `(mean^2 + variance - 1 - log_variance) / 2`: the Kullback-Leibler divergence of one
/// latent in nats -> scalar `[]` of the accumulator dtype. `moments` as for [`posterior_sample`].
///
/// # Errors
/// [`Error::Shape`] where `moments` has an odd last dimension or nothing in it.
pub fn kl_divergence(tape: &Tape, moments: &Tensor) -> Result<Tensor> {
    const OP: &str = "kl_divergence";
    let c = latent_channels(OP, moments)?;
    if on_gpu::holds(OP, &[moments])? {
        return on_gpu::kl_divergence(tape, moments, [moments.len() / (2 * c), c]);
    }
    let mean = dispatch!(moments.dtype(), T => divergence::<T>(moments, c));
    let out = Tensor::full(&[], mean, moments.dtype().accumulator());
    let saved = moments.clone();
    tape.record(OP, [moments], &out, move |dy, _| {
        Ok([Some(dispatch!(saved.dtype(), T => divergence_backward::<T>(&saved, c, dy.item())))])
    });
    Ok(out)
}

fn latent_channels(op: &'static str, moments: &Tensor) -> Result<usize> {
    float(op, moments)?;
    let (_, width) = moments.rows(op)?;
    if width % 2 != 0 || moments.is_empty() {
        let message = format!("{moments:?} is not a mean and a log variance");
        return Err(Error::shape(op, message));
    }
    Ok(width / 2)
}

fn sample<T: Elementary>(moments: &Tensor, noise: &Tensor, c: usize) -> Tensor {
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

/// dmean = dz, dlog_variance = dz noise exp(log_variance / 2) / 2
fn sample_backward<T: Elementary>(moments: &Tensor, noise: &Tensor, dz: &Tensor, c: usize) -> Tensor {
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

fn divergence<T: Elementary>(moments: &Tensor, c: usize) -> f64 {
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

/// dmean = mean / count, dlog_variance = (exp(log_variance) - 1) / (2 count)
fn divergence_backward<T: Elementary>(moments: &Tensor, c: usize, dy: f64) -> Tensor {
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
