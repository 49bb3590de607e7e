//! Launches of `sums.cu`.

use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::ops::elementwise;
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::SUMS_THREADS;
/// Rows that one thread adds up.
const SLAB_ROWS: usize = 128;

/// f32 `[c]`: slabs of rows, then slabs of slabs.
pub fn sum_rows(x: &Tensor, [rows, c]: [usize; 2]) -> Result<Tensor> {
    Ok(sum_rows_of_each(x, [1, rows, c])?.with_shape(&[c]))
}

pub fn sum_pixels(x: &Tensor, sizes: [usize; 3]) -> Result<Tensor> {
    elementwise::cast(&sum_rows_of_each(x, sizes)?, x.dtype())
}

/// [`sum_rows`] of each of n matrices: `x` `[n, rows, c]` -> f32 `[n, c]`.
fn sum_rows_of_each(x: &Tensor, [n, rows, c]: [usize; 3]) -> Result<Tensor> {
    let slabs = rows.div_ceil(SLAB_ROWS);
    let y = x.new_empty(&[n, slabs, c], DType::F32)?;
    let launch = x.kernel(&kernels::SUM_ROWS)?.grid([c.div_ceil(THREADS), slabs, n]).block(THREADS);
    launch.output(&y).input(x).long(rows).int(c).int(SLAB_ROWS).launch()?;
    if slabs > 1 { sum_rows_of_each(&y, [n, slabs, c]) } else { Ok(y.with_shape(&[n, c])) }
}
