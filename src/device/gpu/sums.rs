//! Launches of `sums.cu`.

use super::Buffer;
use super::buffer::expect;
use super::table::kernels;
use crate::dtype::DType;
use crate::error::Result;

const THREADS: usize = kernels::SUMS_THREADS;
/// Rows that one thread adds up.
const SLAB_ROWS: usize = 128;

/// `x` `[rows, c]` -> f32 `[c]`, each column added up in a fixed order: slabs of rows, then slabs of slabs.
pub fn sum_rows(x: &Buffer, rows: usize, c: usize) -> Result<Buffer> {
    sum_rows_of_each(x, [1, rows, c])
}

/// [`sum_rows`] of each of n matrices: `x` `[n, rows, c]` -> f32 `[n, c]`.
pub fn sum_rows_of_each(x: &Buffer, [n, rows, c]: [usize; 3]) -> Result<Buffer> {
    expect("sum_rows", &[("x", x, n * rows * c)])?;
    let slabs = rows.div_ceil(SLAB_ROWS);
    let y = x.gpu().buffer(DType::F32, n * slabs * c)?;
    let launch = x.gpu().kernel(&kernels::SUM_ROWS, x.dtype());
    let launch = launch.grid([c.div_ceil(THREADS), slabs, n]).block(THREADS);
    launch.output(&y).input(x).long(rows).int(c).int(SLAB_ROWS).launch()?;
    if slabs > 1 { sum_rows_of_each(&y, [n, slabs, c]) } else { Ok(y) }
}
