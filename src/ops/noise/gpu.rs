//! Launches of `noise.cu`.

use super::{Draw, Target};
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::NOISE_THREADS;

pub fn add_noise(x: &Tensor, signal: &Tensor, sigma: &Tensor, draw: Draw<'_>, target: Target) -> Result<[Tensor; 2]> {
    let n = draw.index.len();
    let size = x.len() / n;
    let (noisy, wanted) = (x.empty_like()?, x.empty_like()?);
    let launch = x.kernel(&kernels::ADD_NOISE)?.grid(grid(size, n)).block(THREADS);
    let launch = launch.output(&noisy).output(&wanted).input(x).input(signal).input(sigma);
    let launch = launch.input(draw.index).input(draw.step).bits(draw.seed).unsigned(draw.stream as u32);
    launch.long(size).int((target == Target::Velocity).into()).launch()?;
    Ok(match target {
        Target::Sample => [noisy, x.clone()],
        Target::Noise | Target::Velocity => [noisy, wanted],
    })
}

pub fn normals(draw: Draw<'_>, size: usize) -> Result<Tensor> {
    let n = draw.index.len();
    let y = draw.index.new_empty(&[n, size], DType::F32)?;
    let launch = y.kernel(&kernels::DRAW_NORMALS)?.grid(grid(size, n)).block(THREADS);
    let launch = launch.output(&y).input(draw.index).input(draw.step).bits(draw.seed);
    launch.unsigned(draw.stream as u32).long(size).launch()?;
    Ok(y)
}

/// A thread makes four values of one sample.
fn grid(size: usize, n: usize) -> [usize; 3] {
    [size.div_ceil(4).div_ceil(THREADS), n, 1]
}
