//! Launches of `noise.cu`.

use super::Buffer;
use super::buffer::expect;
use super::table::kernels;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::random::Stream;

const THREADS: usize = kernels::NOISE_THREADS;

/// Where noise comes from: `step` is i64 `[1]` in device memory, so that a replayed launch draws anew; `index` is i64
/// `[n]`, the number of each sample.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    pub seed: u64,
    pub stream: Stream,
    pub index: &'a Buffer,
    pub step: &'a Buffer,
}

/// What the network learns to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Noise,
    Velocity,
}

/// `signal x + sigma noise` and the target, both like `x` `[n, ..]`; `signal` and `sigma` are f32 `[n]`.
pub fn add_noise(x: &Buffer, signal: &Buffer, sigma: &Buffer, draw: Draw<'_>, target: Target) -> Result<[Buffer; 2]> {
    const OP: &str = "add_noise";
    let n = draw.index.len();
    let size = size_of_sample(OP, x.len(), n)?;
    expect(OP, &[("signal", signal, n), ("sigma", sigma, n), ("step", draw.step, 1)])?;
    let gpu = x.gpu();
    let (noisy, wanted) = (gpu.buffer(x.dtype(), x.len())?, gpu.buffer(x.dtype(), x.len())?);
    let launch = gpu.kernel(&kernels::ADD_NOISE, x.dtype()).grid(grid(size, n)).block(THREADS);
    let launch = launch.output(&noisy).output(&wanted).input(x).input(signal).input(sigma);
    let launch = launch.input(draw.index).input(draw.step).bits(draw.seed).unsigned(draw.stream as u32);
    launch.long(size).int((target == Target::Velocity).into()).launch()?;
    Ok([noisy, wanted])
}

/// Standard normal numbers, f32 `[n, size]`: the same bits as `random::normals`.
pub fn normals(draw: Draw<'_>, size: usize) -> Result<Buffer> {
    const OP: &str = "normals";
    let n = draw.index.len();
    size_of_sample(OP, n * size, n)?;
    expect(OP, &[("step", draw.step, 1)])?;
    let y = draw.index.gpu().buffer(DType::F32, n * size)?;
    let launch = y.gpu().kernel(&kernels::DRAW_NORMALS, DType::F32);
    let launch = launch.grid(grid(size, n)).block(THREADS).output(&y).input(draw.index).input(draw.step);
    launch.bits(draw.seed).unsigned(draw.stream as u32).long(size).launch()?;
    Ok(y)
}

fn size_of_sample(op: &'static str, values: usize, n: usize) -> Result<usize> {
    if n == 0 || !values.is_multiple_of(n) {
        return Err(Error::shape(op, format!("{values} values are not {n} samples of one size")));
    }
    Ok(values / n)
}

/// A thread makes four values of one sample.
fn grid(size: usize, n: usize) -> [usize; 3] {
    [size.div_ceil(4).div_ceil(THREADS), n, 1]
}
