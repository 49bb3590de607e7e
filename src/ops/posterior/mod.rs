//! The posterior of a variational autoencoder: a draw from it, and its divergence from the standard normal.
//!
//! Source: Kingma & Welling 2014, arXiv:1312.6114, section 2.4 and appendix B.

mod cpu;
mod gpu;

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float};

/// The log variance is limited to this range, outside of which it has no gradient.
pub const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);

/// `mean + exp(log_variance / 2) * noise`. `moments` `[.., 2c]` has the mean in its first half and the log variance in
/// its second; `noise` `[.., c]` has its dtype and gets no gradient; the result has the shape of `noise`.
///
/// # Errors
/// [`Error::Shape`] where the two do not fit or are on several devices; what a GPU says, here and below.
pub fn posterior_sample(tape: &Tape, moments: &Tensor, noise: &Tensor) -> Result<Tensor> {
    const OP: &str = "posterior_sample";
    let c = latent_channels(OP, moments)?;
    tape.refuse(OP, noise)?;
    if noise.rows(OP)? != (moments.len() / (2 * c), c) || moments.dtype() != noise.dtype() {
        let message = format!("{noise:?} is not noise for the moments {moments:?}");
        return Err(Error::shape(OP, message));
    }
    let device = device_of(OP, &[moments, noise])?;
    let z = on!(device, sample(moments, noise, c))?;
    let (moments_saved, noise) = (moments.clone(), noise.clone());
    tape.record(OP, [moments], &z, move |dz, _| {
        Ok([Some(on!(device, sample_backward(&moments_saved, &noise, dz, c))?)])
    });
    Ok(z)
}

/// The mean over all latents of `(mean^2 + variance - 1 - log_variance) / 2`: the Kullback-Leibler divergence of one
/// latent in nats -> scalar `[]` of the accumulator dtype. `moments` as for [`posterior_sample`].
///
/// # Errors
/// [`Error::Shape`] where `moments` has an odd last dimension or nothing in it.
pub fn kl_divergence(tape: &Tape, moments: &Tensor) -> Result<Tensor> {
    const OP: &str = "kl_divergence";
    let c = latent_channels(OP, moments)?;
    let device = device_of(OP, &[moments])?;
    let mean = on!(device, divergence(moments, c))?;
    let saved = moments.clone();
    tape.record(OP, [moments], &mean, move |dy, _| Ok([Some(on!(device, divergence_backward(&saved, c, dy))?)]));
    Ok(mean)
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
