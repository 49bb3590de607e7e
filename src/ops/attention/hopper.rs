//! Launches of `attention_hopper.cu` and `attention_backward_hopper.cu`: both passes as [`gpu`](super::gpu) has them, on compute
//! capability 9.0. No op takes them yet: they have not been proved on a GPU. Selfcheck and tests do.

use super::Shape;
use crate::device::gpu::table::{Kernel, kernels};
use crate::device::gpu::tensor_map::TensorMap;
use crate::device::gpu::{Launcher, Operand, in_chunks};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Bytes of a row of a tile.
const ROW: u32 = 128;

/// The kernels for heads of up to `size` channels.
struct Kernels {
    size: usize,
    forward: &'static Kernel,
    backward_q: &'static Kernel,
    backward_kv: &'static Kernel,
}

static KERNELS: [Kernels; 2] = [
    Kernels {
        size: 40,
        forward: &kernels::ATTENTION_FORWARD_40_HOPPER,
        backward_q: &kernels::ATTENTION_BACKWARD_Q_40_HOPPER,
        backward_kv: &kernels::ATTENTION_BACKWARD_KV_40_HOPPER,
    },
    Kernels {
        size: 64,
        forward: &kernels::ATTENTION_FORWARD_64_HOPPER,
        backward_q: &kernels::ATTENTION_BACKWARD_Q_64_HOPPER,
        backward_kv: &kernels::ATTENTION_BACKWARD_KV_64_HOPPER,
    },
];

/// The result, like `q`, and the logarithm of each row's sum of exponentials, f32 `[n, heads, tq]`. None where the kernels do
/// not take operands of this kind: f32, heads of more than 64 channels or of no multiple of 8.
pub fn attention([q, k, v]: [&Tensor; 3], heads: usize, causal: bool) -> Result<Option<[Tensor; 2]>> {
    let shape = Shape::check([q, k, v], heads, causal)?;
    let y = q.empty_like()?;
    let Some(kernels) = shape.hopper(&[&y, q, k, v], q.dtype()) else { return Ok(None) };
    let log_sums = q.new_empty(&[shape.n, heads, shape.tq], DType::F32)?;
    let launch = shape.hopper_over(q.kernel(kernels.forward)?, shape.tq, kernels::ATTENTION_HOPPER_SHARED);
    let rows = kernels::ATTENTION_HOPPER_ROWS;
    let [of_q, of_k] = [shape.tq, shape.tk].map(|tokens| shape.map(tokens, rows));
    let launch = launch.output(&y).output(&log_sums).input_map(q, of_q).input_map(k, of_k).input_map(v, of_k);
    shape.hopper_sizes(launch).launch()?;
    Ok(Some([y, log_sums]))
}

/// The gradients of q, k and v, where `log_sums` and `delta` are f32 `[n, heads, tq]`; none as for [`attention`].
pub fn attention_gradients(
    [q, k, v]: [&Tensor; 3],
    [log_sums, delta]: [&Tensor; 2],
    dy: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<Option<[Tensor; 3]>> {
    let shape = Shape::check([q, k, v], heads, causal)?;
    let [dq, dk, dv] = [q.empty_like()?, k.empty_like()?, v.empty_like()?];
    let Some(kernels) = shape.hopper(&[&dq, &dk, &dv, dy, q, k, v], q.dtype()) else { return Ok(None) };
    let tile = kernels::ATTENTION_BACKWARD_HOPPER_TILE;
    let [of_q, of_k] = [shape.tq, shape.tk].map(|tokens| shape.map(tokens, tile));
    let shared = kernels::ATTENTION_BACKWARD_HOPPER_SHARED;
    let inputs = |launch: Launcher<'_>| {
        let launch = launch.input_map(dy, of_q).input_map(q, of_q).input_map(k, of_k).input_map(v, of_k);
        shape.hopper_sizes(launch.input(log_sums).input(delta)).launch()
    };
    inputs(shape.hopper_over(q.kernel(kernels.backward_q)?, shape.tq, shared).output(&dq))?;
    inputs(shape.hopper_over(q.kernel(kernels.backward_kv)?, shape.tk, shared).output(&dk).output(&dv))?;
    Ok(Some([dq, dk, dv]))
}

impl Shape {
    /// The kernels for these operands.
    fn hopper(&self, memory: &[&dyn Operand], dtype: DType) -> Option<&'static Kernels> {
        let takes = dtype != DType::F32 && in_chunks(dtype, &[self.size], memory);
        KERNELS.iter().find(|kernels| takes && self.size <= kernels.size)
    }

    /// Blocks that keep so many rows of each head.
    fn hopper_over<'a>(&self, launch: Launcher<'a>, rows: usize, shared: usize) -> Launcher<'a> {
        let launch = launch.grid([rows.div_ceil(kernels::ATTENTION_HOPPER_ROWS), self.heads, self.n]);
        launch.block(kernels::ATTENTION_HOPPER_THREADS).dynamic_shared(shared)
    }

    fn hopper_sizes<'a>(&self, launch: Launcher<'a>) -> Launcher<'a> {
        launch.int(self.tq).int(self.tk).int(self.heads).int(self.size).int(self.causal.into())
    }

    /// Boxes of so many rows of one head and image.
    fn map(&self, tokens: usize, rows: usize) -> TensorMap {
        let of_head = self.size as u64 * 2;
        let of_token = of_head * self.heads as u64;
        let strides = [of_head, of_token, of_token * tokens as u64];
        let boxes = [kernels::ATTENTION_HOPPER_CHANNELS as u32, 1, rows as u32, 1];
        TensorMap::tiled(&[self.size, self.heads, tokens, self.n], &strides, &boxes, ROW)
    }
}
