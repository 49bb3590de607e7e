//! Launches of `layer_norm.cu`.

use super::Buffer;
use super::buffer::expect;
use super::sums::sum_rows;
use super::table::kernels;
use crate::dtype::DType;
use crate::error::Result;

const OP: &str = "layer_norm";
const THREADS: usize = kernels::LAYER_NORM_THREADS;
const ROWS_OF_BLOCK: usize = THREADS / 32;
/// Rows of one partial sum for the gradients of weight and bias.
const SLAB_ROWS: usize = 64;

/// The shape of a LayerNorm over `[rows, c]`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    pub rows: usize,
    pub c: usize,
    pub eps: f32,
}

/// Mean and 1 / sqrt(variance + eps), f32 `[rows]`.
pub struct Statistics {
    mean: Buffer,
    rstd: Buffer,
}

impl LayerNorm {
    /// `x` normalised. `weight` and `bias` are f32 `[c]`.
    pub fn forward(&self, x: &Buffer, weight: &Buffer, bias: &Buffer) -> Result<(Buffer, Statistics)> {
        let Self { rows, c, eps } = *self;
        expect(OP, &[("x", x, rows * c), ("weight", weight, c), ("bias", bias, c)])?;
        let gpu = x.gpu();
        let y = gpu.buffer(x.dtype(), rows * c)?;
        let mean = gpu.buffer(DType::F32, rows)?;
        let rstd = gpu.buffer(DType::F32, rows)?;
        let launch = gpu.kernel(&kernels::LAYER_NORM_FORWARD, x.dtype());
        let launch = launch.grid([rows.div_ceil(ROWS_OF_BLOCK), 1, 1]).block(THREADS);
        let launch = launch.output(&y).output(&mean).output(&rstd).input(x).input(weight).input(bias);
        launch.long(rows).int(c).float(eps).launch()?;
        Ok((y, Statistics { mean, rstd }))
    }

    /// The gradient of `x`.
    pub fn backward(&self, dy: &Buffer, x: &Buffer, weight: &Buffer, statistics: &Statistics) -> Result<Buffer> {
        let Self { rows, c, .. } = *self;
        let Statistics { mean, rstd } = statistics;
        expect(OP, &[("dy", dy, rows * c), ("x", x, rows * c), ("weight", weight, c)])?;
        expect(OP, &[("mean", mean, rows), ("rstd", rstd, rows)])?;
        let dx = x.gpu().buffer(x.dtype(), rows * c)?;
        let launch = x.gpu().kernel(&kernels::LAYER_NORM_BACKWARD, x.dtype());
        let launch = launch.grid([rows.div_ceil(ROWS_OF_BLOCK), 1, 1]).block(THREADS);
        let launch = launch.output(&dx).input(dy).input(x).input(weight).input(mean).input(rstd);
        launch.long(rows).int(c).launch()?;
        Ok(dx)
    }

    /// The gradients of weight and bias, f32 `[c]`.
    pub fn backward_parameters(&self, dy: &Buffer, x: &Buffer, statistics: &Statistics) -> Result<[Buffer; 2]> {
        let Self { rows, c, .. } = *self;
        let Statistics { mean, rstd } = statistics;
        expect(OP, &[("dy", dy, rows * c), ("x", x, rows * c), ("mean", mean, rows), ("rstd", rstd, rows)])?;
        let slabs = rows.div_ceil(SLAB_ROWS);
        let partial = x.gpu().buffer(DType::F32, slabs * 2 * c)?;
        let launch = x.gpu().kernel(&kernels::LAYER_NORM_BACKWARD_PARAMETERS, x.dtype());
        let launch = launch.grid([c.div_ceil(THREADS), slabs, 1]).block(THREADS);
        let launch = launch.output(&partial).input(dy).input(x).input(mean).input(rstd);
        launch.long(rows).int(c).int(SLAB_ROWS).launch()?;
        let both = sum_rows(&partial, slabs, 2 * c)?;
        Ok([both.view(0, c), both.view(c, c)])
    }
}
