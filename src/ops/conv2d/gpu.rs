//! Launches of `conv2d.cu`.

use super::{ConvShape, Epilogue, OP, hopper};
use crate::device::gpu::choice::{Added, Case, Operation};
use crate::device::gpu::table::{Kernel, kernels};
use crate::device::gpu::{Launcher, Operand, Tile, in_chunks};
use crate::error::{Error, Result};
use crate::ops::sums::gpu::{Finish, sum_slices};
use crate::ops::sums::sum_rows;
use crate::tensor::{DType, Tensor};

/// Pixels that the kernels of the large and the small tile count.
const MOST_PIXELS: usize = i32::MAX as usize;

const FORWARD: [&Kernel; 4] = [
    &kernels::CONV2D_FORWARD_TALL,
    &kernels::CONV2D_FORWARD_LARGE,
    &kernels::CONV2D_FORWARD_SMALL,
    &kernels::CONV2D_FORWARD_ANY,
];
const DGRAD: [&Kernel; 4] = [
    &kernels::CONV2D_DGRAD_TALL,
    &kernels::CONV2D_DGRAD_LARGE,
    &kernels::CONV2D_DGRAD_SMALL,
    &kernels::CONV2D_DGRAD_ANY,
];

/// The convolution and all that is added, rounded once. `bias` is f32.
pub fn forward(
    shape: &ConvShape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
) -> Result<Tensor> {
    let (pixels, c_out) = (shape.pixels(), shape.c_out);
    let Epilogue { channel_bias, residual } = epilogue;
    let y = x.new_empty(&shape.y(), x.dtype())?;
    let mut memory: Vec<&dyn Operand> = vec![&y, x, weight];
    memory.extend([channel_bias, residual].into_iter().flatten().map(|x| x as &dyn Operand));
    let step = Tile::step(x.dtype());
    let steps = shape.c_in.is_multiple_of(step) && pixels <= MOST_PIXELS;
    let fits = steps && in_chunks(x.dtype(), &[c_out], &memory);
    let added = || {
        let added =
            [bias.map(|_| Added::Bias), channel_bias.map(|_| Added::ChannelBias), residual.map(|_| Added::Residual)];
        added.into_iter().flatten().collect()
    };
    let case = || Case::of_convolution(Operation::ConvForward, x.dtype(), shape, added());
    let (tile, slices) = x.gpu()?.choose(fits, case, || match fits {
        true => Tile::split(pixels, c_out, 1, shape.kh * shape.kw * shape.c_in / step, x.dtype()),
        false => (Tile::SMALL, 1),
    })?;
    if slices > 1 {
        return forward_in_slices(shape, x, weight, bias, epilogue, (tile, slices));
    }
    if tile == Tile::HOPPER
        && let Some(y) = hopper::forward(shape, x, weight, bias, epilogue)?
    {
        return Ok(y);
    }
    let tile = tile.without_maps();
    let launch = tile.over(x.kernel(tile.choose_of(FORWARD))?, pixels, c_out, 1).output(&y).input(x).input(weight);
    let launch = launch.input_if(bias).input_if(channel_bias).input_if(residual).int(shape.n);
    sizes(launch, shape).launch()?;
    Ok(y)
}

/// [`forward`] in slices of taps and channels side by side, which then are added up in their order.
pub fn forward_in_slices(
    shape: &ConvShape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
    (tile, slices): (Tile, usize),
) -> Result<Tensor> {
    let (pixels, c_out) = (shape.pixels(), shape.c_out);
    let y = x.new_empty(&shape.y(), x.dtype())?;
    let parts = x.new_empty(&[slices, pixels, c_out], DType::F32)?;
    let kernel = tile.choose_split([&kernels::CONV2D_FORWARD_SPLIT_LARGE, &kernels::CONV2D_FORWARD_SPLIT_SMALL]);
    let launch = tile.over(x.kernel(kernel)?, pixels, c_out, slices).output(&parts).input(x).input(weight);
    sizes(launch.int(shape.n), shape).int(slices).launch()?;
    let Epilogue { channel_bias, residual } = epilogue;
    let t = channel_bias.map(|t| (t, shape.ho * shape.wo));
    sum_slices(&y, &parts, c_out, Finish { alpha: 1.0, bias, t, residual })?;
    Ok(y)
}

/// The gradient of `x`.
pub fn input_gradient(shape: &ConvShape, dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    transposed(shape, dy, weight, None)
}

/// [`input_gradient`] plus `bias` `[c_in]`, f32: the convolution transposed.
pub fn transposed(shape: &ConvShape, dy: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let ConvShape { n, h, w, c_in, kh, kw, stride, .. } = *shape;
    expect("dy", dy, &shape.y())?;
    let dx = dy.new_empty(&shape.x(), dy.dtype())?;
    let steps = shape.c_out.is_multiple_of(Tile::step(dy.dtype())) && n * h * w <= MOST_PIXELS;
    let fits = steps && in_chunks(dy.dtype(), &[c_in], &[&dx, dy, weight]);
    // Pixels whose coordinates leave the same remainders meet the same taps: blocks along z for each such class.
    let classes = if fits { stride * stride } else { 1 };
    let pixels = if fits { n * h.div_ceil(stride) * w.div_ceil(stride) } else { n * h * w };
    // Of the class that meets most; slices only where all meet as many.
    let taps = if fits { kh.div_ceil(stride) * kw.div_ceil(stride) } else { kh * kw };
    let steps = (taps * shape.c_out).div_ceil(Tile::step(dy.dtype()));
    let alike = kh.is_multiple_of(stride) && kw.is_multiple_of(stride);
    let added = || bias.map(|_| Added::Bias).into_iter().collect();
    let case = || Case::of_convolution(Operation::ConvDgrad, dy.dtype(), shape, added());
    let (tile, slices) = dy.gpu()?.choose(fits, case, || match fits && alike {
        true => Tile::split(pixels, c_in, classes, steps, dy.dtype()),
        false => (Tile::whole(&Tile::ALL, [pixels, c_in], classes, steps, dy.dtype()), 1),
    })?;
    if slices > 1 {
        return transposed_in_slices(shape, dy, weight, bias, (tile, slices));
    }
    if tile == Tile::HOPPER
        && let Some(dx) = hopper::transposed(shape, dy, weight, bias)?
    {
        return Ok(dx);
    }
    let tile = tile.without_maps();
    let launch = tile.over(dy.kernel(tile.choose_of(DGRAD))?, pixels, c_in, classes);
    sizes(launch.output(&dx).input(dy).input(weight).input_if(bias).int(n), shape).launch()?;
    Ok(dx)
}

/// [`transposed`] in slices of taps and channels.
pub fn transposed_in_slices(
    shape: &ConvShape,
    dy: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    (tile, slices): (Tile, usize),
) -> Result<Tensor> {
    let ConvShape { n, h, w, c_in, stride, .. } = *shape;
    let (classes, pixels) = (stride * stride, n * h.div_ceil(stride) * w.div_ceil(stride));
    let dx = dy.new_empty(&shape.x(), dy.dtype())?;
    let parts = dy.new_empty(&[slices, n * h * w, c_in], DType::F32)?;
    let kernel = tile.choose_split([&kernels::CONV2D_DGRAD_SPLIT_LARGE, &kernels::CONV2D_DGRAD_SPLIT_SMALL]);
    let launch = tile.over(dy.kernel(kernel)?, pixels, c_in, classes * slices);
    sizes(launch.output(&parts).input(dy).input(weight).int(n), shape).int(slices).launch()?;
    sum_slices(&dx, &parts, c_in, Finish { alpha: 1.0, bias, t: None, residual: None })?;
    Ok(dx)
}

/// The weights `[c_in, 4, 4, c_out]` of the convolution of stride 2 whose transpose is the one of `weight`
/// `[c_out, 3, 3, c_in]` over an image at twice its size.
pub fn upsampled_taps(weight: &Tensor) -> Result<Tensor> {
    let &[c_out, _, _, c_in] = weight.shape() else { unreachable!("checked by the op") };
    let taps = weight.new_empty(&[c_in, 4, 4, c_out], weight.dtype())?;
    let blocks = [c_out, c_in].map(|channels| channels.div_ceil(kernels::UPSAMPLED_SIDE));
    let launch = weight.kernel(&kernels::UPSAMPLED_TAPS)?.grid([blocks[0], blocks[1], 1]);
    launch.block(kernels::UPSAMPLED_THREADS).output(&taps).input(weight).int(c_out).int(c_in).launch()?;
    Ok(taps)
}

/// The gradient of the weights, f32: slices of the pixels are summed side by side and then added up in their order.
pub fn weight_gradient(shape: &ConvShape, dy: &Tensor, x: &Tensor, _stored: DType) -> Result<Tensor> {
    let (pixels, c_out) = (shape.pixels(), shape.c_out);
    expect("dy", dy, &shape.y())?;
    let weights: usize = shape.weight().iter().product();
    let width = weights / c_out.max(1);
    let case = || Case::of_convolution(Operation::ConvWgrad, x.dtype(), shape, Vec::new());
    let (tile, slices) = x.gpu()?.choose(true, case, || Tile::sliced(&[[c_out, width]], pixels.max(1), x.dtype()))?;
    let slice = Tile::slice(pixels.max(1), slices, x.dtype());
    let slices = pixels.div_ceil(slice).max(1);
    let parts = x.new_empty(&[slices, weights], DType::F32)?;
    let small = &kernels::CONV2D_WGRAD_SMALL;
    let kernel = tile.choose([&kernels::CONV2D_WGRAD_LARGE, small, small]);
    let launch = tile.over(x.kernel(kernel)?, c_out, width, slices);
    let launch = launch.output(&parts).input(dy).input(x).int(shape.n).int(slice);
    sizes(launch, shape).launch()?;
    let sum = if slices == 1 { parts } else { sum_rows(&parts, [slices, weights])? };
    Ok(sum.with_shape(&shape.weight()))
}

/// The arguments from h to left.
fn sizes<'a>(launch: Launcher<'a>, shape: &ConvShape) -> Launcher<'a> {
    let ConvShape { h, w, c_in, ho, wo, c_out, kh, kw, stride, padding, .. } = *shape;
    let launch = launch.int(h).int(w).int(c_in).int(ho).int(wo).int(c_out);
    launch.int(kh).int(kw).int(stride).int(padding.top).int(padding.left)
}

/// That a gradient is one of the result: no kernel may be sent beyond its operands.
pub(super) fn expect(name: &str, x: &Tensor, shape: &[usize]) -> Result<()> {
    match x.len() == shape.iter().product::<usize>() {
        true => Ok(()),
        false => Err(Error::shape(OP, format!("{name} {x:?} is not like the result {shape:?}"))),
    }
}
