//! Convolution on the CPU: a GEMM over patches.

use super::{ConvShape, Epilogue};
use crate::autograd::Tape;
use crate::device::cpu::convolve::Convolution;
use crate::device::cpu::gemm::{Gemm, Matrix, Output, product};
use crate::device::cpu::patches::{Order, Patches, Taps, Transposed};
use crate::dispatch;
use crate::error::Result;
use crate::ops::add_channel_bias;
use crate::tensor::{DType, Tensor, buffer, recycle};

/// The convolution, rounded, and then each addition, rounded.
pub fn forward(
    shape: &ConvShape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
) -> Result<Tensor> {
    let mut y = dispatch!(x.dtype(), T => {
        let y = convolve::<T>(shape, &x.reals::<T>(), weight, bias);
        Tensor::from_reals(y, &shape.y(), x.dtype())
    });
    if let Some(channels) = epilogue.channel_bias {
        y = add_channel_bias(&Tape::off(), &y, channels)?;
    }
    epilogue.residual.map_or(Ok(y.clone()), |residual| residual.sum(&y))
}

/// The gradient of `x`.
pub fn input_gradient(shape: &ConvShape, dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    dispatch!(dy.dtype(), T => {
        let dx = dgrad::<T>(shape, &dy.reals::<T>(), &weight.reals::<T>());
        Ok(Tensor::from_reals(dx, &shape.x(), dy.dtype()))
    })
}

/// The gradient of a weight that is stored as `stored`, in the dtype that its sums have.
pub fn weight_gradient(shape: &ConvShape, dy: &Tensor, x: &Tensor, stored: DType) -> Result<Tensor> {
    dispatch!(dy.dtype(), T => {
        let dw = wgrad::<T>(shape, &dy.reals::<T>(), &x.reals::<T>());
        Ok(Tensor::from_reals(dw, &shape.weight(), stored.master_dtype()))
    })
}

/// The part of `x` that each output pixel reads.
fn patches<'a, T>(shape: &ConvShape, x: &'a [T]) -> Patches<'a, T> {
    Patches {
        data: x,
        size: [shape.h, shape.w, shape.c_in],
        kernel: [shape.kh, shape.kw],
        pixels: [shape.n, shape.ho, shape.wo],
        step: shape.stride,
        offset: [-(shape.padding.top as isize), -(shape.padding.left as isize)],
        order: Order::TapsFirst,
    }
}

fn convolve<T: Gemm>(shape: &ConvShape, x: &[T], weight: &Tensor, bias: Option<&Tensor>) -> Vec<T> {
    let weight = weight.reals::<T>();
    let bias = bias.map(|b| b.reals::<T>());
    let patches = patches(shape, x);
    let convolution = Convolution {
        data: x,
        size: patches.size,
        kernel: patches.kernel,
        pixels: patches.pixels,
        offset: patches.offset,
        out: shape.c_out,
    };
    if shape.stride == 1 && convolution.fits() {
        return convolution.run(bias.as_deref(), |ky, taps, to| {
            let steps = taps.len() * shape.c_in;
            to.lines(0..steps, 1, |c_out| {
                let tap = (c_out * shape.kh + ky) * shape.kw + taps.start;
                Some(&weight[tap * shape.c_in..][..steps])
            });
        });
    }
    let output = bias.as_ref().map_or(Output::Set, |b| Output::Bias(b));
    let weight = Matrix::row_major(&weight, shape.c_out, patches.values());
    let mut y = buffer::<T>(patches.count() * shape.c_out);
    if shape.pointwise() {
        product(&Matrix::row_major(x, patches.count(), shape.c_in), &weight, output, &mut y);
    } else {
        product(&patches, &weight, output, &mut y);
    }
    y
}

/// Input pixels that are a stride apart meet the same taps: one dense product for each of the stride^2 groups.
fn dgrad<T: Gemm>(shape: &ConvShape, dy: &[T], weight: &[T]) -> Vec<T> {
    let ConvShape { n, h, w, c_in, .. } = *shape;
    if shape.pointwise() {
        let mut dx = buffer::<T>(n * h * w * c_in);
        let dy = Matrix::row_major(dy, n * h * w, shape.c_out);
        product(&dy, &Matrix::transposed(weight, shape.c_out, c_in), Output::Set, &mut dx);
        return dx;
    }
    let turned = |k: usize, padding: usize| padding as isize + 1 - k as isize;
    let convolution = Convolution {
        data: dy,
        size: [shape.ho, shape.wo, shape.c_out],
        kernel: [shape.kh, shape.kw],
        pixels: [n, h, w],
        offset: [turned(shape.kh, shape.padding.top), turned(shape.kw, shape.padding.left)],
        out: c_in,
    };
    if shape.stride == 1 && convolution.fits() {
        return convolution.run(None, |ky, taps, to| {
            to.steps(taps.len() * shape.c_out, |step| {
                let (kx, c_out) = (taps.start + step / shape.c_out, step % shape.c_out);
                // The last tap meets the first output pixel.
                let tap = (shape.kh - 1 - ky) * shape.kw + shape.kw - 1 - kx;
                &weight[(c_out * shape.kh * shape.kw + tap) * c_in..][..c_in]
            });
        });
    }
    let mut dx = buffer::<T>(n * h * w * c_in);
    let axis =
        |length, kernel, padding| (0..shape.stride).map(move |p| Phase::of(length, kernel, padding, shape.stride, p));
    for rows in axis(h, shape.kh, shape.padding.top) {
        for columns in axis(w, shape.kw, shape.padding.left) {
            let taps = rows.taps.iter().flat_map(|ky| columns.taps.iter().map(move |kx| ky * shape.kw + kx));
            let taps = Taps { weight, c_out: shape.c_out, all_taps: shape.kh * shape.kw, c_in, taps: taps.collect() };
            let patches = Patches {
                data: dy,
                size: [shape.ho, shape.wo, shape.c_out],
                kernel: [rows.taps.len(), columns.taps.len()],
                pixels: [n, rows.count, columns.count],
                step: 1,
                offset: [rows.offset, columns.offset],
                order: Order::ChannelsFirst,
            };
            if shape.stride == 1 {
                product(&patches, &taps, Output::Set, &mut dx);
                continue;
            }
            let mut part = buffer::<T>(patches.count() * c_in);
            product(&patches, &taps, Output::Set, &mut part);
            for (i, pixel) in part.chunks_exact(c_in.max(1)).enumerate() {
                let (image, y, x) = (i / columns.count / rows.count, i / columns.count % rows.count, i % columns.count);
                let (y, x) = (rows.first + y * shape.stride, columns.first + x * shape.stride);
                dx[((image * h + y) * w + x) * c_in..][..c_in].copy_from_slice(pixel);
            }
            recycle(part);
        }
    }
    dx
}

/// Along one axis, the input coordinates `first + stride i` and the taps that they meet: those k for which
/// `coordinate + padding - k` is a multiple of the stride, and so an output coordinate.
struct Phase {
    first: usize,
    count: usize,
    /// The last tap first: it meets the first output coordinate.
    taps: Vec<usize>,
    /// The output coordinate that coordinate `first` meets under `taps[0]`.
    offset: isize,
}

impl Phase {
    fn of(length: usize, kernel: usize, padding: usize, stride: usize, phase: usize) -> Self {
        let first = (phase + stride - padding % stride) % stride;
        let taps: Vec<usize> = (phase..kernel).step_by(stride).rev().collect();
        let tap = taps.first().copied().unwrap_or(phase);
        Self {
            first,
            count: length.saturating_sub(first).div_ceil(stride),
            offset: ((first + padding) as isize - tap as isize) / stride as isize,
            taps,
        }
    }
}

/// `dW = dy^T patches`.
fn wgrad<T: Gemm>(shape: &ConvShape, dy: &[T], x: &[T]) -> Vec<T> {
    let patches = Transposed(patches(shape, x));
    let mut dw = buffer::<T>(shape.c_out * patches.0.values());
    let dy = Matrix::transposed(dy, patches.0.count(), shape.c_out);
    if shape.pointwise() {
        let x = Matrix::transposed(x, patches.0.count(), shape.c_in);
        product(&dy, &x, Output::Set, &mut dw);
    } else {
        product(&dy, &patches, Output::Set, &mut dw);
    }
    dw
}
