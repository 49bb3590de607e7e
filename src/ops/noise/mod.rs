//! The forward process of diffusion with its noise drawn in the same pass, and what the network learns from it. Without
//! gradients.

mod cpu;
mod gpu;

use crate::error::{Error, Result};
use crate::random::Stream;
use crate::tensor::{DType, Tensor, device_of, float};

/// Standard normal numbers: those that [`crate::random::normals`] gives for each sample.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    pub seed: u64,
    pub stream: Stream,
    /// The number of each sample in the stream, i64 `[n]`.
    pub index: &'a Tensor,
    /// i64 `[1]`. A tensor, as the index is, so that a replay draws anew.
    pub step: &'a Tensor,
}

/// What the network learns to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The noise.
    Noise,
    /// `signal noise - sigma x` (Salimans and Ho 2022, arXiv:2202.00512).
    Velocity,
    /// `x`.
    Sample,
}

/// `signal x + sigma noise` (Ho, Jain and Abbeel 2020, arXiv:2006.11239, equation 4) and the target, both like `x`
/// `[n, ..]`; `signal` and `sigma` are f32 `[n]`. The CPU rounds the noise to the dtype of `x` before it adds it, as a
/// noise that is given would be; a GPU does not.
///
/// # Errors
/// [`Error::Shape`] where the tensors do not fit or are on several devices; what a GPU says.
pub fn add_noise(x: &Tensor, signal: &Tensor, sigma: &Tensor, draw: Draw<'_>, target: Target) -> Result<[Tensor; 2]> {
    const OP: &str = "add_noise";
    float(OP, x)?;
    let n = draw.check(OP)?;
    let fits =
        x.shape().first() == Some(&n) && [signal, sigma].iter().all(|s| s.shape() == [n] && s.dtype() == DType::F32);
    if !fits {
        return Err(Error::shape(OP, format!("{x:?}, signal {signal:?} and sigma {sigma:?} for {n} samples")));
    }
    on!(device_of(OP, &[x, signal, sigma, draw.index, draw.step])?, add_noise(x, signal, sigma, draw, target))
}

/// Standard normal numbers, f32 `[n, size]`, on the device of `draw.index`.
///
/// # Errors
/// [`Error::Shape`] where index and step do not fit or are on several devices; what a GPU says.
pub fn normals(draw: Draw<'_>, size: usize) -> Result<Tensor> {
    const OP: &str = "normals";
    draw.check(OP)?;
    on!(device_of(OP, &[draw.index, draw.step])?, normals(draw, size))
}

impl Draw<'_> {
    /// The number of samples.
    fn check(&self, op: &'static str) -> Result<usize> {
        let integers = self.index.dtype() == DType::I64 && self.step.dtype() == DType::I64;
        match *self.index.shape() {
            [n] if n > 0 && integers && self.step.len() == 1 => Ok(n),
            _ => Err(Error::shape(
                op,
                format!("index {:?} and step {:?}: expected i64 [n] and [1]", self.index, self.step),
            )),
        }
    }
}
