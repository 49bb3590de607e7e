//! Launches of `rows.cu`.

use super::with_last;
use crate::device::gpu::pack;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::ROWS_THREADS;

pub fn concat_channels(x: &Tensor, z: &Tensor, [a, b]: [usize; 2]) -> Result<Tensor> {
    let y = x.new_empty(&with_last(x, a + b), x.dtype())?;
    let rows = y.len() / (a + b).max(1);
    let launch = x.kernel(&kernels::CONCAT_CHANNELS)?.grid(grid(x, rows, a.max(b))).block(THREADS);
    launch.output(&y).input(x).input(z).long(rows).int(a).int(b).launch()?;
    Ok(y)
}

pub fn slice_channels(x: &Tensor, offset: usize, width: usize) -> Result<Tensor> {
    let (rows, stride) = x.rows("slice_channels")?;
    let y = x.new_empty(&with_last(x, width), x.dtype())?;
    let launch = x.kernel(&kernels::SLICE_CHANNELS)?.grid(grid(x, rows, width)).block(THREADS).output(&y).input(x);
    launch.long(rows).int(width).int(stride).int(offset).launch()?;
    Ok(y)
}

/// The gradient of [`slice_channels`]: `dy` from channel `offset` of `stride` on, zeros elsewhere.
pub fn spread_channels(dy: &Tensor, offset: usize, stride: usize) -> Result<Tensor> {
    let (rows, width) = dy.rows("slice_channels")?;
    let y = dy.new_empty(&with_last(dy, stride), dy.dtype())?;
    let launch = dy.kernel(&kernels::SPREAD_CHANNELS)?.grid(grid(dy, rows, stride)).block(THREADS);
    launch.output(&y).input(dy).long(rows).int(width).int(stride).int(offset).launch()?;
    Ok(y)
}

/// A lookup among all `n t` rows.
pub fn select_rows(x: &Tensor, numbers: &Tensor, [n, _, c]: [usize; 3]) -> Result<Tensor> {
    lookup(x, numbers, c, &[n, c])
}

/// The gradient of [`select_rows`]: zeros but for the selected rows.
pub fn spread_rows(dy: &Tensor, numbers: &Tensor, [n, t, c]: [usize; 3]) -> Result<Tensor> {
    let y = dy.new_empty(&[n, t, c], dy.dtype())?;
    let launch = dy.kernel(&kernels::SPREAD_ROWS)?.grid(grid(dy, n * t, c)).block(THREADS);
    launch.output(&y).input(dy).input(numbers).long(n * t).int(t).int(c).launch()?;
    Ok(y)
}

pub fn embedding(table: &Tensor, ids: &Tensor, shape: &[usize]) -> Result<Tensor> {
    lookup(table, &ids.to(&table.device())?, table.shape()[1], shape)
}

/// Rows of `d` values of `table` at `ids`.
fn lookup(table: &Tensor, ids: &Tensor, d: usize, shape: &[usize]) -> Result<Tensor> {
    let rows = ids.len();
    let y = table.new_empty(shape, table.dtype())?;
    let launch = table.kernel(&kernels::EMBEDDING_FORWARD)?.grid(grid(table, rows, d)).block(THREADS);
    launch.output(&y).input(table).input(ids).long(rows).int(d).launch()?;
    Ok(y)
}

/// Rows of the gradient of one row of a table that one thread adds up at first.
const PIECE: usize = 64;

/// The gradient of a table `[v, d]`, in f32. What went to one row of the table is added up in the order of the ids, 64 at a
/// time first.
pub fn embedding_backward(dy: &Tensor, ids: &Tensor, [v, d]: [usize; 2]) -> Result<Tensor> {
    let ids = ids.data::<i64>();
    let mut order: Vec<i64> = (0..ids.len() as i64).collect();
    order.sort_by_key(|&i| ids[i as usize]);
    // Where in the order a piece begins, and at which piece a row of the table.
    let (mut pieces, mut rows, mut sorted) = (vec![0], vec![0], 0);
    for row in 0..v as i64 {
        let end = sorted + order[sorted..].iter().take_while(|&&i| ids[i as usize] == row).count();
        while sorted < end {
            sorted = (sorted + PIECE).min(end);
            pieces.push(sorted as i64);
        }
        rows.push(pieces.len() as i64 - 1);
    }
    let list = |values: Vec<i64>| {
        let len = values.len();
        Tensor::new(values, &[len]).to(&dy.device())
    };
    let (order, pieces, rows) = (list(order)?, list(pieces)?, list(rows)?);
    let parts = sum_listed_rows(dy, Some(&order), &pieces, d)?;
    sum_listed_rows(&parts, None, &rows, d)
}

/// f32 `[first.len() - 1, width]`: in row r the sum of rows `first[r]..first[r + 1]` of `x` in the given order.
fn sum_listed_rows(x: &Tensor, order: Option<&Tensor>, first: &Tensor, width: usize) -> Result<Tensor> {
    let rows = first.len() - 1;
    let y = x.new_empty(&[rows, width], DType::F32)?;
    let launch = x.kernel(&kernels::EMBEDDING_BACKWARD)?.grid(grid(x, rows, width)).block(THREADS);
    launch.output(&y).input(x).input_if(order).input(first).long(rows).int(width).launch()?;
    Ok(y)
}

pub fn timestep_embedding(timesteps: &Tensor, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Result<Tensor> {
    let n = timesteps.len();
    let y = timesteps.new_empty(&[n, dim], DType::F32)?;
    let launch = timesteps.kernel(&kernels::TIMESTEP_EMBEDDING)?;
    let launch = launch.grid([(n * dim).div_ceil(THREADS), 1, 1]).block(THREADS).output(&y).input(timesteps);
    launch.long(n).int(dim).int(flip_sin_to_cos.into()).float(freq_shift as f32).launch()?;
    Ok(y)
}

pub fn upsample_nearest(x: &Tensor, [n, h, w, c]: [usize; 4], [height, width]: [usize; 2]) -> Result<Tensor> {
    let y = x.new_empty(&[n, height, width, c], x.dtype())?;
    let launch = x.kernel(&kernels::UPSAMPLE_NEAREST_FORWARD)?.grid(grid(x, n * height * width, c)).block(THREADS);
    launch.output(&y).input(x).int(n).int(h).int(w).int(c).int(height).int(width).launch()?;
    Ok(y)
}

pub fn upsample_nearest_backward(dy: &Tensor, [n, h, w, c]: [usize; 4], [height, width]: [usize; 2]) -> Result<Tensor> {
    let dx = dy.new_empty(&[n, h, w, c], dy.dtype())?;
    let launch = dy.kernel(&kernels::UPSAMPLE_NEAREST_BACKWARD)?.grid(grid(dy, n * h * w, c)).block(THREADS);
    launch.output(&dx).input(dy).int(n).int(h).int(w).int(c).int(height).int(width).launch()?;
    Ok(dx)
}

/// Blocks whose threads have a pack of one of `rows` rows each.
fn grid(x: &Tensor, rows: usize, width: usize) -> [usize; 3] {
    [(rows * width.div_ceil(pack(x.dtype()))).div_ceil(THREADS), 1, 1]
}
