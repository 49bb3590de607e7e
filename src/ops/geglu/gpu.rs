//! Launches for GEGLU: `elementwise.cu`, and `matmul.cu` where the gate joins its layer.

use crate::device::gpu::pack;
use crate::device::gpu::table::kernels;
use crate::error::Result;
pub use crate::ops::matmul::gpu::products_geglu as linear_geglu;
use crate::ops::matmul::{shaped, sizes};
use crate::tensor::Tensor;

const THREADS: usize = kernels::ELEMENTWISE_THREADS;

pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let [rows, width] = sizes(x);
    let y = x.new_empty(&shaped(x, width / 2), x.dtype())?;
    let launch = x.kernel(&kernels::GEGLU_FORWARD)?.grid(packs_of_rows(&y)).block(THREADS);
    launch.output(&y).input(x).long(rows).int(width / 2).launch()?;
    Ok(y)
}

pub fn gradient(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let [rows, c] = sizes(dy);
    let dx = x.empty_like()?;
    let launch = x.kernel(&kernels::GEGLU_BACKWARD)?.grid(packs_of_rows(dy)).block(THREADS);
    launch.output(&dx).input(dy).input(x).long(rows).int(c).launch()?;
    Ok(dx)
}

/// Blocks whose threads have a pack of one row of the result each.
fn packs_of_rows(y: &Tensor) -> [usize; 3] {
    let [rows, c] = sizes(y);
    [(rows * c.div_ceil(pack(y.dtype()))).div_ceil(THREADS), 1, 1]
}
