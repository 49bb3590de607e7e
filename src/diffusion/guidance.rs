//! Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598).

use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::{Tensor, buffer};

/// `unconditional + scale * (conditional - unconditional)` over `[n, ..]`. With `rescale` > 0 each sample's spread is
/// drawn towards that of the conditional output (Lin et al. 2023, arXiv:2305.08891, section 3.4).
///
/// # Errors
/// [`crate::Error::Shape`] where the outputs differ in shape or device; what a GPU says.
pub fn guide(unconditional: &Tensor, conditional: &Tensor, scale: f64, rescale: f64) -> Result<Combination> {
    let [u, c] = [unconditional, conditional].map(Combination::of);
    let guided = Combination::sum(&[(1.0 - scale, &u), (scale, &c)]);
    if rescale <= 0.0 {
        return Ok(guided);
    }
    let guided = guided.tensor()?;
    let n = guided.shape().first().copied().unwrap_or(1).max(1);
    let len = guided.len() / n;
    // Not often asked for, and small: wherever the outputs are, the spreads are measured on the CPU.
    let (device, guided, conditional) = (guided.device(), guided.to_cpu()?, conditional.to_cpu()?);
    let (from, to) = (guided.reals::<f32>(), conditional.reals::<f32>());
    let mut out = buffer::<f32>(guided.len());
    for i in 0..n {
        let sample = &from[i * len..][..len];
        let factor = rescale * deviation(&to[i * len..][..len]) / deviation(sample) + 1.0 - rescale;
        for (y, &x) in out[i * len..][..len].iter_mut().zip(sample) {
            *y = (f64::from(x) * factor) as f32;
        }
    }
    let guided = Tensor::from_reals(out, guided.shape(), guided.dtype());
    Ok(Combination::of(&guided.to(&device)?))
}

/// The unbiased standard deviation.
fn deviation(x: &[f32]) -> f64 {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}
