//! Launches of `sums.cu`.

use super::Buffer;
use super::buffer::expect;
use super::table::kernels;
use crate::error::Result;
use crate::tensor::DType;

const THREADS: usize = kernels::SUMS_THREADS;
/// Rows that one thread adds up.
const SLAB_ROWS: usize = 128;

/// `x` `[rows, c]` -> f32 `[c]`, each column added up in a fixed order: slabs of rows, then slabs of slabs.
pub fn sum_rows(x: &Buffer, rows: usize, c: usize) -> Result<Buffer> {
    expect("sum_rows", &[("x", x, rows * c)])?;
    let slabs = rows.div_ceil(SLAB_ROWS);
    let y = x.gpu().buffer(DType::F32, slabs * c)?;
    let launch = x.gpu().kernel(&kernels::SUM_ROWS, x.dtype());
    let launch = launch.grid([c.div_ceil(THREADS), slabs, 1]).block(THREADS);
    launch.output(&y).input(x).long(rows).int(c).int(SLAB_ROWS).launch()?;
    if slabs > 1 { sum_rows(&y, slabs, c) } else { Ok(y) }
}
