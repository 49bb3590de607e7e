//! Launches of `posterior.cu`. Rows are positions of latents.

use super::LOG_VARIANCE;
use crate::device::gpu::pack;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::ops::loss::mean_of_parts;
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::POSTERIOR_THREADS;
const LOW: f32 = LOG_VARIANCE.0 as f32;
const HIGH: f32 = LOG_VARIANCE.1 as f32;

pub fn sample(moments: &Tensor, noise: &Tensor, c: usize) -> Result<Tensor> {
    let z = noise.empty_like()?;
    let launch = moments.kernel(&kernels::POSTERIOR_DRAW)?.grid(packs_of_rows(moments, c)).block(THREADS);
    let launch = launch.output(&z).input(moments).input(noise);
    launch.long(rows(moments, c)).int(c).float(LOW).float(HIGH).launch()?;
    Ok(z)
}

pub fn sample_backward(moments: &Tensor, noise: &Tensor, dz: &Tensor, c: usize) -> Result<Tensor> {
    let d_moments = moments.empty_like()?;
    let launch = moments.kernel(&kernels::POSTERIOR_DRAW_BACKWARD)?.grid(packs_of_rows(moments, c)).block(THREADS);
    let launch = launch.output(&d_moments).input(dz).input(moments).input(noise);
    launch.long(rows(moments, c)).int(c).float(LOW).float(HIGH).launch()?;
    Ok(d_moments)
}

pub fn divergence(moments: &Tensor, c: usize) -> Result<Tensor> {
    let latents = moments.len() / 2;
    let blocks = latents.div_ceil(kernels::POSTERIOR_LATENTS);
    let parts = moments.new_empty(&[blocks], DType::F32)?;
    let launch = moments.kernel(&kernels::KL_PARTS)?.grid([blocks, 1, 1]).block(THREADS);
    launch.output(&parts).input(moments).long(latents).int(c).float(LOW).float(HIGH).launch()?;
    // The parts are twice the divergences.
    mean_of_parts(&parts, 2 * latents)
}

pub fn divergence_backward(moments: &Tensor, c: usize, dy: &Tensor) -> Result<Tensor> {
    let d_moments = moments.empty_like()?;
    let launch = moments.kernel(&kernels::KL_BACKWARD)?.grid(packs_of_rows(moments, c)).block(THREADS);
    let launch = launch.output(&d_moments).input(moments).input(dy);
    launch.long(rows(moments, c)).int(c).float(LOW).float(HIGH).launch()?;
    Ok(d_moments)
}

fn rows(moments: &Tensor, c: usize) -> usize {
    moments.len() / (2 * c)
}

/// Blocks whose threads have a pack of the latents of one row each.
fn packs_of_rows(moments: &Tensor, c: usize) -> [usize; 3] {
    [(rows(moments, c) * c.div_ceil(pack(moments.dtype()))).div_ceil(THREADS), 1, 1]
}
