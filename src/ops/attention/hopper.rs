//! Launches of `attention_hopper.cu`: the forward pass as [`gpu`](super::gpu) has it, on compute capability 9.0. No op takes it yet:
//! it has not been proved on a GPU. Selfcheck and tests do.

use super::Shape;
use crate::device::gpu::table::{Kernel, kernels};
use crate::device::gpu::tensor_map::TensorMap;
use crate::device::gpu::{Operand, in_chunks};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Up to which size of a head.
const KERNELS: [(usize, &Kernel); 2] =
    [(40, &kernels::ATTENTION_FORWARD_40_HOPPER), (64, &kernels::ATTENTION_FORWARD_64_HOPPER)];
/// Bytes of a row of a tile.
const ROW: u32 = 128;

/// The result, like `q`, and the logarithm of each row's sum of exponentials, f32 `[n, heads, tq]`. None where the kernels do
/// not take operands of this kind: f32, heads of more than 64 channels or of no multiple of 8.
pub fn attention([q, k, v]: [&Tensor; 3], heads: usize, causal: bool) -> Result<Option<[Tensor; 2]>> {
    let Shape { n, tq, tk, heads, size, causal } = Shape::check([q, k, v], heads, causal)?;
    let kernel = KERNELS.iter().find(|(most, _)| size <= *most).map(|(_, kernel)| *kernel);
    let y = q.empty_like()?;
    let memory: [&dyn Operand; 4] = [&y, q, k, v];
    let whole = in_chunks(q.dtype(), &[size], &memory);
    let Some(kernel) = kernel.filter(|_| q.dtype() != DType::F32 && whole && !y.is_empty() && tk > 0) else {
        return Ok(None);
    };
    let log_sums = q.new_empty(&[n, heads, tq], DType::F32)?;
    let (tile, channels) = (kernels::ATTENTION_HOPPER_TILE, kernels::ATTENTION_HOPPER_CHANNELS);
    // Boxes of one head and image.
    let map = |tokens: usize| {
        let of_head = size as u64 * 2;
        let of_token = of_head * heads as u64;
        let strides = [of_head, of_token, of_token * tokens as u64];
        TensorMap::tiled(&[size, heads, tokens, n], &strides, &[channels as u32, 1, tile as u32, 1], ROW)
    };
    let launch = q.kernel(kernel)?.grid([tq.div_ceil(tile), heads, n]).block(kernels::ATTENTION_HOPPER_THREADS);
    let launch = launch.dynamic_shared(kernels::ATTENTION_HOPPER_SHARED).output(&y).output(&log_sums);
    let launch = launch.input_map(q, map(tq)).input_map(k, map(tk)).input_map(v, map(tk));
    launch.int(tq).int(tk).int(heads).int(size).int(causal.into()).launch()?;
    Ok(Some([y, log_sums]))
}
