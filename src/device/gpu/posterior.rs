//! Launches of `posterior.cu`.

use super::Buffer;
use super::buffer::expect;
use super::loss::mean_of_parts;
use super::table::kernels;
use crate::dtype::DType;
use crate::error::Result;

const THREADS: usize = kernels::POSTERIOR_THREADS;
/// The log variance is limited to this range, outside of which it has no gradient.
pub const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);
const LOW: f32 = LOG_VARIANCE.0 as f32;
const HIGH: f32 = LOG_VARIANCE.1 as f32;

/// A draw `[rows, c]` from the posterior of `moments` `[rows, 2c]`, with `noise` `[rows, c]`.
pub fn draw(moments: &Buffer, noise: &Buffer, [rows, c]: [usize; 2]) -> Result<Buffer> {
    expect("posterior_sample", &[("moments", moments, rows * 2 * c), ("noise", noise, rows * c)])?;
    let z = moments.gpu().buffer(moments.dtype(), rows * c)?;
    let launch = moments.gpu().kernel(&kernels::POSTERIOR_DRAW, moments.dtype());
    let launch = launch.grid(packs_of_rows(moments, rows, c)).block(THREADS);
    let launch = launch.output(&z).input(moments).input(noise);
    launch.long(rows).int(c).float(LOW).float(HIGH).launch()?;
    Ok(z)
}

/// The gradient of the moments from that of a draw, `dz` `[rows, c]`.
pub fn draw_backward(dz: &Buffer, moments: &Buffer, noise: &Buffer, [rows, c]: [usize; 2]) -> Result<Buffer> {
    let lengths = [("dz", dz, rows * c), ("moments", moments, rows * 2 * c), ("noise", noise, rows * c)];
    expect("posterior_sample", &lengths)?;
    let d_moments = moments.gpu().buffer(moments.dtype(), rows * 2 * c)?;
    let launch = moments.gpu().kernel(&kernels::POSTERIOR_DRAW_BACKWARD, moments.dtype());
    let launch = launch.grid(packs_of_rows(moments, rows, c)).block(THREADS);
    let launch = launch.output(&d_moments).input(dz).input(moments).input(noise);
    launch.long(rows).int(c).float(LOW).float(HIGH).launch()?;
    Ok(d_moments)
}

/// The mean divergence of a latent from the standard normal, f32 `[1]`, of `moments` `[rows, 2c]`.
pub fn divergence(moments: &Buffer, [rows, c]: [usize; 2]) -> Result<Buffer> {
    expect("kl_divergence", &[("moments", moments, rows * 2 * c)])?;
    let blocks = (rows * c).div_ceil(kernels::POSTERIOR_LATENTS);
    let parts = moments.gpu().buffer(DType::F32, blocks)?;
    let launch = moments.gpu().kernel(&kernels::KL_PARTS, moments.dtype());
    let launch = launch.grid([blocks, 1, 1]).block(THREADS).output(&parts).input(moments);
    launch.long(rows * c).int(c).float(LOW).float(HIGH).launch()?;
    // The parts are twice the divergences.
    mean_of_parts(&parts, 2 * rows * c)
}

/// The gradient of the moments from that of the mean divergence, `dkl` f32 `[1]`.
pub fn divergence_backward(dkl: &Buffer, moments: &Buffer, [rows, c]: [usize; 2]) -> Result<Buffer> {
    expect("kl_divergence", &[("dkl", dkl, 1), ("moments", moments, rows * 2 * c)])?;
    let d_moments = moments.gpu().buffer(moments.dtype(), rows * 2 * c)?;
    let launch = moments.gpu().kernel(&kernels::KL_BACKWARD, moments.dtype());
    let launch = launch.grid(packs_of_rows(moments, rows, c)).block(THREADS);
    let launch = launch.output(&d_moments).input(moments).input(dkl);
    launch.long(rows).int(c).float(LOW).float(HIGH).launch()?;
    Ok(d_moments)
}

/// Blocks whose threads have a pack of one of `rows` rows of latents each.
fn packs_of_rows(x: &Buffer, rows: usize, c: usize) -> [usize; 3] {
    [(rows * c.div_ceil(x.pack())).div_ceil(THREADS), 1, 1]
}
