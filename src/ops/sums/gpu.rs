//! Launches of `sums.cu`.

use crate::device::gpu::pack;
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

/// What follows the sums of slices: `alpha sum + bias + t + residual`. `t` `[n, c]` has the rows of y of one image in each of
/// its own.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    pub alpha: f64,
    pub bias: Option<&'a Tensor>,
    pub t: Option<(&'a Tensor, usize)>,
    pub residual: Option<&'a Tensor>,
}

/// The sums of `parts` f32 `[slices, rows, c]` in the order of the slices, and what follows them, into `y` of `rows` rows.
pub fn sum_slices(y: &Tensor, parts: &Tensor, c: usize, finish: Finish<'_>) -> Result<()> {
    let (slices, rows) = (parts.len() / y.len().max(1), y.len() / c.max(1));
    let packs = rows * (c / pack(y.dtype()));
    let (t, rows_of_t) = finish.t.unzip();
    let launch = y.kernel(&kernels::SUM_SLICES)?.grid([packs.div_ceil(THREADS), 1, 1]).block(THREADS);
    let launch = launch.output(y).input(parts).input_if(finish.bias).input_if(t).input_if(finish.residual);
    launch.long(rows).int(c).int(slices).int(rows_of_t.unwrap_or(1)).float(finish.alpha as f32).launch()
}
