//! Launches of `conv2d_hopper.cu`: convolutions as [`gpu`](super::gpu) has them, on compute capability 9.0. An op takes
//! them where they have proved themselves on the GPU, and are the fastest. Selfcheck and tests take them anyway.

use super::gpu::expect;
use super::{ConvShape, Epilogue};
use crate::device::gpu::table::{Kernel, kernels};
use crate::device::gpu::tensor_map::{Boxes, TensorMap};
use crate::device::gpu::{Launcher, Operand, in_chunks};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Blocks, which take tiles in turn: one for each multiprocessor of an H100.
const BLOCKS: usize = 132;
/// Bytes of a row of a tile.
const ROW: u32 = 128;

/// [`forward`](super::gpu::forward) by tensor maps: the same sums in the same order. None where the kernel does not take
/// operands of this kind: f32, channels that are no multiples of 8, padding beyond a map's corners.
pub fn forward(
    shape: &ConvShape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
) -> Result<Option<Tensor>> {
    let ConvShape { ho, wo, c_in, c_out, kh, kw, stride, padding, .. } = *shape;
    expect("x", x, &shape.x())?;
    expect("weight", weight, &shape.weight())?;
    let y = x.new_empty(&shape.y(), x.dtype())?;
    let Epilogue { channel_bias, residual } = epilogue;
    let mut memory: Vec<&dyn Operand> = vec![&y, x, weight];
    memory.extend([channel_bias, residual].into_iter().flatten().map(|x| x as &dyn Operand));
    let first = [padding.left, padding.top].map(|p| -(p as i32));
    let patches = patches(shape.x(), [wo, ho], stride, first);
    if !takes(&memory, &y, [c_in, c_out], stride) || !keeps(&patches, x) {
        return Ok(None);
    }
    let weights = weights(shape, [kernels::PIPE_STEP, kernels::PIPE_COLUMNS], ROW);
    let launch = over(&kernels::CONV2D_FORWARD_HOPPER, &y, c_out)?.output(&y);
    let launch = launch.input_map(x, patches).input_map(weight, weights);
    let launch = launch.input_if(bias).input_if(channel_bias).input_if(residual);
    let launch = launch.int(shape.n).int(c_in).int(ho).int(wo).int(c_out).int(kh).int(kw).int(stride);
    launch.int(padding.top).int(padding.left).launch()?;
    Ok(Some(y))
}

/// [`transposed`](super::gpu::transposed) in the same way, for stride 1.
pub fn transposed(shape: &ConvShape, dy: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
    let ConvShape { h, w, c_in, c_out, kh, kw, stride, padding, .. } = *shape;
    expect("dy", dy, &shape.y())?;
    expect("weight", weight, &shape.weight())?;
    let dx = dy.new_empty(&shape.x(), dy.dtype())?;
    let first = [(padding.left, kw), (padding.top, kh)].map(|(before, taps)| before as i32 - (taps as i32 - 1));
    let patches = patches(shape.y(), [w, h], 1, first);
    if stride != 1 || !takes(&[&dx, dy, weight], &dx, [c_in, c_out], stride) || !keeps(&patches, dy) {
        return Ok(None);
    }
    let weights = weights(shape, [kernels::PIPE_BOX_COLUMNS, kernels::PIPE_STEP], ROW / 2);
    let launch = over(&kernels::CONV2D_DGRAD_HOPPER, &dx, c_in)?.output(&dx);
    let launch = launch.input_map(dy, patches).input_map(weight, weights).input_if(bias);
    let launch = launch.int(shape.n).int(h).int(w).int(c_in).int(c_out).int(kh).int(kw);
    launch.int(padding.top).int(padding.left).launch()?;
    Ok(Some(dx))
}

/// The kernel over as many blocks as `result` has tiles, or as there are multiprocessors.
fn over<'a>(kernel: &'static Kernel, result: &'a Tensor, channels: usize) -> Result<Launcher<'a>> {
    let pixels = result.len() / channels;
    let tiles = pixels.div_ceil(kernels::PIPE_ROWS) * channels.div_ceil(kernels::PIPE_COLUMNS);
    let launch = result.kernel(kernel)?.grid([tiles.min(BLOCKS), 1, 1]);
    Ok(launch.block(kernels::PIPE_THREADS).dynamic_shared(kernels::PIPE_SHARED))
}

fn takes(memory: &[&dyn Operand], result: &Tensor, channels: [usize; 2], stride: usize) -> bool {
    let whole = in_chunks(result.dtype(), &channels, memory);
    result.dtype() != DType::F32 && whole && !result.is_empty() && stride <= 8 && result.len() <= i32::MAX as usize
}

/// Whether the map is one.
fn keeps(map: &TensorMap, x: &Tensor) -> bool {
    map.check(0, x.len() * x.dtype().size()).is_ok()
}

/// The pixels of `image` under the first tap, for results of this width and height, from pixel `first` on.
fn patches(image: [usize; 4], result: [usize; 2], stride: usize, first: [i32; 2]) -> TensorMap {
    let [_, height, width, _] = image;
    // So far behind the image's last pixel that a line has as many positions as the result.
    let last = |axis: usize, size: usize| ((result[axis] - 1) * stride + 1) as i32 + first[axis] - size as i32;
    let upper = [last(0, width), last(1, height)];
    let (channels, pixels) = (kernels::PIPE_STEP as u32, kernels::PIPE_ROWS as u32);
    TensorMap::patches(image, stride as u32, ROW, Boxes::Patches { channels, pixels, lower: first, upper })
}

/// Weights `[c_out, taps, c_in]` in boxes of one tap, of so many input and output channels.
fn weights(shape: &ConvShape, [inner, outer]: [usize; 2], span: u32) -> TensorMap {
    let (taps, row) = (shape.kh * shape.kw, shape.c_in as u64 * 2);
    let sizes = [shape.c_in, taps, shape.c_out];
    TensorMap::tiled(&sizes, &[row, row * taps as u64], &[inner as u32, 1, outer as u32], span)
}
