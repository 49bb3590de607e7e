//! Launches of `embedding.cu`: lookups and reorderings of rows.

use super::buffer::expect;
use super::table::kernels;
use super::{Buffer, Gpu};
use crate::dtype::DType;
use crate::error::{Error, Result};

const THREADS: usize = kernels::EMBEDDING_THREADS;

/// Rows of `table` `[v, d]` at `ids` -> `[ids, d]`. The ids come from the host, which checks them.
pub fn embedding(table: &Buffer, ids: &[i64], [v, d]: [usize; 2]) -> Result<Buffer> {
    const OP: &str = "embedding";
    expect(OP, &[("table", table, v * d)])?;
    if let Some(id) = ids.iter().find(|&&id| id < 0 || id >= v as i64) {
        return Err(Error::shape(OP, format!("id {id} is not in a table of {v} rows")));
    }
    let gpu = table.gpu();
    let (rows, ids) = (ids.len(), gpu.upload(ids)?);
    let y = gpu.buffer(table.dtype(), rows * d)?;
    let launch = gpu.kernel(&kernels::EMBEDDING_FORWARD, table.dtype());
    let launch = launch.grid(grid(table, rows, d)).block(THREADS);
    launch.output(&y).input(table).input(&ids).long(rows).int(d).launch()?;
    Ok(y)
}

/// Rows of the gradient of one row of a table that one thread adds up at first.
const PIECE: usize = 64;

/// The gradient of a table `[v, d]`, in f32, from that of its rows at `ids`: `dy` `[.., d]`. What went to one row of the
/// table is added up in the order of the ids, 64 at a time first.
pub fn embedding_backward(dy: &Buffer, ids: &[i64], [v, d]: [usize; 2]) -> Result<Buffer> {
    const OP: &str = "embedding";
    expect(OP, &[("dy", dy, ids.len() * d)])?;
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
    let gpu = dy.gpu();
    let [order, pieces, rows] = [order, pieces, rows].map(|list| gpu.upload(&list));
    let (order, pieces, rows) = (order?, pieces?, rows?);
    let parts = sum_listed_rows(dy, Some(&order), &pieces, d)?;
    sum_listed_rows(&parts, None, &rows, d)
}

/// f32 `[first.len() - 1, width]`: in row r the sum of rows `first[r]..first[r + 1]` of `x` in the given order.
fn sum_listed_rows(x: &Buffer, order: Option<&Buffer>, first: &Buffer, width: usize) -> Result<Buffer> {
    let rows = first.len() - 1;
    let y = x.gpu().buffer(DType::F32, rows * width)?;
    let launch = x.gpu().kernel(&kernels::EMBEDDING_BACKWARD, x.dtype());
    let launch = launch.grid(grid(x, rows, width)).block(THREADS);
    let launch = launch.output(&y).input(x).input_if(order).input(first);
    launch.long(rows).int(width).launch()?;
    Ok(y)
}

/// `[n t, d]` of zeros, but for the rows at `ids` `[n]`, one in each t: there those of `dy` `[n, d]`.
pub fn spread_rows(dy: &Buffer, ids: &[i64], [t, d]: [usize; 2]) -> Result<Buffer> {
    let n = ids.len();
    expect("select_rows", &[("dy", dy, n * d)])?;
    let gpu = dy.gpu();
    let ids = gpu.upload(ids)?;
    let y = gpu.buffer(dy.dtype(), n * t * d)?;
    let launch = gpu.kernel(&kernels::SPREAD_ROWS, dy.dtype());
    let launch = launch.grid(grid(dy, n * t, d)).block(THREADS);
    let launch = launch.output(&y).input(dy).input(&ids);
    launch.long(n * t).int(t).int(d).launch()?;
    Ok(y)
}

/// Channels `offset` to `offset + width` of `x` `[rows, stride]`.
pub fn slice_channels(x: &Buffer, rows: usize, stride: usize, offset: usize, width: usize) -> Result<Buffer> {
    const OP: &str = "slice_channels";
    expect(OP, &[("x", x, rows * stride)])?;
    if offset + width > stride {
        return Err(Error::shape(OP, format!("{offset} + {width} channels of {stride}")));
    }
    let y = x.gpu().buffer(x.dtype(), rows * width)?;
    let launch = x.gpu().kernel(&kernels::SLICE_CHANNELS, x.dtype());
    let launch = launch.grid(grid(x, rows, width)).block(THREADS).output(&y).input(x);
    launch.long(rows).int(width).int(stride).int(offset).launch()?;
    Ok(y)
}

/// The gradient of [`slice_channels`]: `dy` `[rows, width]` from channel `offset` of `[rows, stride]` on, zeros elsewhere.
pub fn spread_channels(dy: &Buffer, rows: usize, stride: usize, offset: usize, width: usize) -> Result<Buffer> {
    expect("slice_channels", &[("dy", dy, rows * width)])?;
    let y = dy.gpu().buffer(dy.dtype(), rows * stride)?;
    let launch = dy.gpu().kernel(&kernels::SPREAD_CHANNELS, dy.dtype());
    let launch = launch.grid(grid(dy, rows, stride)).block(THREADS).output(&y).input(dy);
    launch.long(rows).int(width).int(stride).int(offset).launch()?;
    Ok(y)
}

/// `x` `[rows, a]` beside `z` `[rows, b]` -> `[rows, a + b]`.
pub fn concat_channels(x: &Buffer, z: &Buffer, rows: usize, [a, b]: [usize; 2]) -> Result<Buffer> {
    expect("concat_channels", &[("x", x, rows * a), ("z", z, rows * b)])?;
    let y = x.gpu().buffer(x.dtype(), rows * (a + b))?;
    let launch = x.gpu().kernel(&kernels::CONCAT_CHANNELS, x.dtype());
    let launch = launch.grid(grid(x, rows, a.max(b))).block(THREADS);
    launch.output(&y).input(x).input(z).long(rows).int(a).int(b).launch()?;
    Ok(y)
}

/// The sinusoidal embedding of `timesteps` f32 `[n]` -> f32 `[n, dim]`, as `ops::timestep_embedding`.
pub fn timestep_embedding(timesteps: &Buffer, dim: usize, flip_sin_to_cos: bool, freq_shift: f32) -> Result<Buffer> {
    let (gpu, n): (&Gpu, _) = (timesteps.gpu(), timesteps.len());
    let y = gpu.buffer(DType::F32, n * dim)?;
    let launch = gpu.kernel(&kernels::TIMESTEP_EMBEDDING, DType::F32);
    let launch = launch.grid([(n * dim).div_ceil(THREADS), 1, 1]).block(THREADS).output(&y).input(timesteps);
    launch.long(n).int(dim).int(flip_sin_to_cos.into()).float(freq_shift).launch()?;
    Ok(y)
}

/// `x` `[n, h, w, c]` -> `[n, height, width, c]`, each pixel its nearest neighbour.
pub fn upsample_nearest(x: &Buffer, [n, h, w, c]: [usize; 4], [height, width]: [usize; 2]) -> Result<Buffer> {
    expect("upsample_nearest", &[("x", x, n * h * w * c)])?;
    let y = x.gpu().buffer(x.dtype(), n * height * width * c)?;
    let launch = x.gpu().kernel(&kernels::UPSAMPLE_NEAREST_FORWARD, x.dtype());
    let launch = launch.grid(grid(x, n * height * width, c)).block(THREADS).output(&y).input(x);
    launch.int(n).int(h).int(w).int(c).int(height).int(width).launch()?;
    Ok(y)
}

/// `dy` `[n, height, width, c]` -> `[n, h, w, c]`.
pub fn upsample_nearest_backward(dy: &Buffer, [n, h, w, c]: [usize; 4], [height, width]: [usize; 2]) -> Result<Buffer> {
    expect("upsample_nearest", &[("dy", dy, n * height * width * c)])?;
    let dx = dy.gpu().buffer(dy.dtype(), n * h * w * c)?;
    let launch = dy.gpu().kernel(&kernels::UPSAMPLE_NEAREST_BACKWARD, dy.dtype());
    let launch = launch.grid(grid(dy, n * h * w, c)).block(THREADS).output(&dx).input(dy);
    launch.int(n).int(h).int(w).int(c).int(height).int(width).launch()?;
    Ok(dx)
}

/// Blocks whose threads have a pack of one of `rows` rows each.
fn grid(x: &Buffer, rows: usize, width: usize) -> [usize; 3] {
    [(rows * width.div_ceil(x.pack())).div_ceil(THREADS), 1, 1]
}
