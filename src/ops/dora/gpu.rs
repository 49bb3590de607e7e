//! Launches of `dora.cu`.

use crate::device::gpu::pack;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::ops::elementwise;
use crate::ops::sums::sum_rows;
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::DORA_THREADS;
/// Rows of one partial sum for the gradient of the lengths.
const SLAB_ROWS: usize = 64;

/// f32 `[out]`.
pub fn norms(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let (out, rank) = (weight.shape()[0], a.shape()[0]);
    let norm = weight.new_empty(&[out], DType::F32)?;
    let launch = weight.kernel(&kernels::DORA_NORMS)?.grid([out.div_ceil(kernels::DORA_ROWS), 1, 1]).block(THREADS);
    let launch = launch.output(&norm).input(weight).input(a).input(b);
    launch.int(out).int(weight.len() / out.max(1)).int(rank).float(scale as f32).launch()?;
    Ok(norm)
}

pub fn forward(
    z: &Tensor,
    magnitude: &Tensor,
    norm: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let (y, out) = (z.empty_like()?, norm.len());
    let rows = z.len() / out.max(1);
    let magnitude = elementwise::cast(magnitude, DType::F32)?;
    let bias = bias.map(|bias| elementwise::cast(bias, DType::F32)).transpose()?;
    let packs = rows * out.div_ceil(pack(z.dtype()));
    let launch = z.kernel(&kernels::DORA_SCALE)?.grid([packs.div_ceil(THREADS), 1, 1]).block(THREADS);
    let launch = launch.output(&y).input(z).input(&magnitude).input(norm).input_if(bias.as_ref()).input_if(residual);
    launch.long(rows).int(out).launch()?;
    Ok(y)
}

pub fn input_gradient(dy: &Tensor, magnitude: &Tensor, norm: &Tensor) -> Result<Tensor> {
    forward(dy, magnitude, norm, None, None)
}

/// f32 `[out]`.
pub fn magnitude_gradient(dy: &Tensor, z: &Tensor, norm: &Tensor) -> Result<Tensor> {
    let out = norm.len();
    let rows = z.len() / out.max(1);
    let slabs = rows.div_ceil(SLAB_ROWS);
    let parts = z.new_empty(&[slabs, out], DType::F32)?;
    let launch = z.kernel(&kernels::DORA_PRODUCTS)?.grid([out.div_ceil(THREADS), slabs, 1]).block(THREADS);
    launch.output(&parts).input(dy).input(z).input(norm).long(rows).int(out).int(SLAB_ROWS).launch()?;
    sum_rows(&parts, [slabs, out])
}
