//! The posterior of a variational autoencoder.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::posterior as kernels;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::posterior_sample` of `[rows, 2c]` moments.
pub fn posterior_sample(tape: &Tape, moments: &Tensor, noise: &Tensor, sizes: [usize; 2]) -> Result<Tensor> {
    let (m, e) = (of(moments)?, of(noise)?);
    let out = Tensor::on_gpu(kernels::draw(&m, &e, sizes)?, noise.shape());
    let shape = moments.shape().to_vec();
    tape.record("posterior_sample", [moments], &out, move |dz, _| {
        let gradient = kernels::draw_backward(&of(dz)?, &m, &e, sizes)?;
        Ok([Some(Tensor::on_gpu(gradient, &shape))])
    });
    Ok(out)
}

/// As `ops::kl_divergence` of `[rows, 2c]` moments.
pub fn kl_divergence(tape: &Tape, moments: &Tensor, sizes: [usize; 2]) -> Result<Tensor> {
    let m = of(moments)?;
    let out = Tensor::on_gpu(kernels::divergence(&m, sizes)?, &[]);
    let shape = moments.shape().to_vec();
    tape.record("kl_divergence", [moments], &out, move |dy, _| {
        let gradient = kernels::divergence_backward(&of(dy)?, &m, sizes)?;
        Ok([Some(Tensor::on_gpu(gradient, &shape))])
    });
    Ok(out)
}
