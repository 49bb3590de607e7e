//! Launches of `layer_norm.cu`.

use super::Shape;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::ops::sums::sum_rows;
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::LAYER_NORM_THREADS;
const ROWS_OF_BLOCK: usize = THREADS / 32;
/// Rows of one partial sum for the gradients of weight and bias.
const SLAB_ROWS: usize = 64;

/// The result, and mean and 1 / sqrt(variance + eps) of each row, f32. `weight` and `bias` are f32.
pub fn forward(shape: &Shape, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, [Tensor; 2])> {
    let Shape { rows, c, eps } = *shape;
    let y = x.empty_like()?;
    let mean = x.new_empty(&[rows], DType::F32)?;
    let rstd = x.new_empty(&[rows], DType::F32)?;
    let launch = x.kernel(&kernels::LAYER_NORM_FORWARD)?;
    let launch = launch.grid([rows.div_ceil(ROWS_OF_BLOCK), 1, 1]).block(THREADS);
    let launch = launch.output(&y).output(&mean).output(&rstd).input(x).input(weight).input(bias);
    launch.long(rows).int(c).float(eps as f32).launch()?;
    Ok((y, [mean, rstd]))
}

/// The gradients of x, plus `onto`, weight and bias where wanted, those of the two f32 `[c]`.
pub fn backward(
    shape: &Shape,
    x: &Tensor,
    weight: &Tensor,
    [mean, rstd]: &[Tensor; 2],
    (dy, onto): (&Tensor, Option<Tensor>),
    wants: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let Shape { rows, c, .. } = *shape;
    let mut gradients = [const { None }; 3];
    if wants[0] {
        let dx = x.empty_like()?;
        let launch = x.kernel(&kernels::LAYER_NORM_BACKWARD)?;
        let launch = launch.grid([rows.div_ceil(ROWS_OF_BLOCK), 1, 1]).block(THREADS);
        let launch = launch.output(&dx).input(dy).input(x).input(weight).input(mean).input(rstd);
        let launch = launch.input_if(onto.as_ref());
        launch.long(rows).int(c).launch()?;
        gradients[0] = Some(dx);
    }
    if wants[1] || wants[2] {
        let slabs = rows.div_ceil(SLAB_ROWS);
        let partial = x.new_empty(&[slabs, 2, c], DType::F32)?;
        let launch = x.kernel(&kernels::LAYER_NORM_BACKWARD_PARAMETERS)?;
        let launch = launch.grid([c.div_ceil(THREADS), slabs, 1]).block(THREADS);
        let launch = launch.output(&partial).input(dy).input(x).input(mean).input(rstd);
        launch.long(rows).int(c).int(SLAB_ROWS).launch()?;
        let both = sum_rows(&partial, [slabs, 2 * c])?;
        gradients[1] = wants[1].then(|| both.view(0, &[c]));
        gradients[2] = wants[2].then(|| both.view(c, &[c]));
    }
    Ok(gradients)
}
