//! Launches of `elementwise.cu`.

use super::Activation;
use crate::device::gpu::pack;
use crate::device::gpu::table::{Kernel, kernels};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::ELEMENTWISE_THREADS;

pub fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    let y = x.empty_like()?;
    let launch = x.kernel(&kernels::SCALE_FORWARD)?.grid(packs_of(x)).block(THREADS);
    launch.output(&y).input(x).long(x.len()).float(factor as f32).launch()?;
    Ok(y)
}

pub fn activation(f: Activation, x: &Tensor) -> Result<Tensor> {
    let kernel = match f {
        Activation::Silu => &kernels::SILU_FORWARD,
        Activation::Gelu => &kernels::GELU_FORWARD,
        Activation::QuickGelu => &kernels::QUICK_GELU_FORWARD,
    };
    let y = x.empty_like()?;
    let launch = x.kernel(kernel)?.grid(packs_of(x)).block(THREADS);
    launch.output(&y).input(x).long(x.len()).launch()?;
    Ok(y)
}

/// `dy f'(x)`.
pub fn activation_gradient(f: Activation, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let kernel: &'static Kernel = match f {
        Activation::Silu => &kernels::SILU_BACKWARD,
        Activation::Gelu => &kernels::GELU_BACKWARD,
        Activation::QuickGelu => &kernels::QUICK_GELU_BACKWARD,
    };
    let dx = x.empty_like()?;
    let launch = x.kernel(kernel)?.grid(packs_of(x)).block(THREADS);
    launch.output(&dx).input(dy).input(x).long(x.len()).launch()?;
    Ok(dx)
}

/// From f32 to a storage type, or from one to f32.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let y = x.new_empty(x.shape(), dtype)?;
    let (kernel, stored) = match (x.dtype(), dtype) {
        (DType::F32, _) => (&kernels::CAST_FROM_FLOAT, &y),
        (_, DType::F32) => (&kernels::CAST_TO_FLOAT, x),
        (from, to) => {
            let (from, to) = (from.name(), to.name());
            return Err(Error::shape("cast", format!("there is no kernel from {from} to {to}")));
        }
    };
    let launch = stored.kernel(kernel)?.grid(packs_of(stored)).block(THREADS);
    launch.output(&y).input(x).long(x.len()).launch()?;
    Ok(y)
}

/// `x` `[n, pixels, c]` plus `t` `[n, c]`.
pub fn add_channel_bias(x: &Tensor, t: &Tensor, [n, pixels, c]: [usize; 3]) -> Result<Tensor> {
    let y = x.empty_like()?;
    let packs = n * pixels * c.div_ceil(pack(x.dtype()));
    let launch = x.kernel(&kernels::ADD_CHANNEL_BIAS_FORWARD)?.grid([packs.div_ceil(THREADS), 1, 1]).block(THREADS);
    launch.output(&y).input(x).input(t).long(n * pixels).int(pixels).int(c).launch()?;
    Ok(y)
}

/// Blocks whose threads have a pack of `x` each.
fn packs_of(x: &Tensor) -> [usize; 3] {
    [x.len().div_ceil(pack(x.dtype())).div_ceil(THREADS), 1, 1]
}
