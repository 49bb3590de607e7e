//! Launches of `embedding.cu`: lookups and reorderings of rows.

use super::buffer::expect;
use super::table::kernels;
use super::{Buffer, Gpu};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::EMBEDDING_THREADS;

/// Rows of `table` `[v, d]` at `ids` `[..]` -> `[.., d]`. The ids come from the host, which checks them.
pub fn embedding(table: &Buffer, ids: &Tensor, [v, d]: [usize; 2]) -> Result<Buffer> {
    const OP: &str = "embedding";
    expect(OP, &[("table", table, v * d)])?;
    if ids.dtype() != DType::I64 {
        return Err(Error::shape(OP, format!("expected i64 ids, got {ids:?}")));
    }
    if let Some(id) = ids.data::<i64>().iter().find(|&&id| id < 0 || id >= v as i64) {
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
    let launch = launch
        .grid([(n * dim).div_ceil(THREADS), 1, 1])
        .block(THREADS)
        .output(&y)
        .input(timesteps);
    launch
        .long(n)
        .int(dim)
        .int(flip_sin_to_cos.into())
        .float(freq_shift)
        .launch()?;
    Ok(y)
}

/// `x` `[n, h, w, c]` -> `[n, height, width, c]`, each pixel its nearest neighbour.
pub fn upsample_nearest(x: &Buffer, [n, h, w, c]: [usize; 4], [height, width]: [usize; 2]) -> Result<Buffer> {
    expect("upsample_nearest", &[("x", x, n * h * w * c)])?;
    let y = x.gpu().buffer(x.dtype(), n * height * width * c)?;
    let launch = x.gpu().kernel(&kernels::UPSAMPLE_NEAREST_FORWARD, x.dtype());
    let launch = launch
        .grid(grid(x, n * height * width, c))
        .block(THREADS)
        .output(&y)
        .input(x);
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
