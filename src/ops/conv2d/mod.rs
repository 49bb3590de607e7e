//! Convolution over `[n, h, w, c]` as a GEMM over patches.

mod size;
mod upsampled;

use super::elementwise::{add, add_channel_bias};
use super::linear::fitting;
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::cpu::convolve::Convolution;
use crate::device::cpu::gemm::{Gemm, Matrix, Output, product, sum_rows};
use crate::device::cpu::patches::{Order, Patches, Taps, Transposed};
pub use crate::device::gpu::conv2d::Padding;
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Tensor, buffer, recycle};
use size::Size;
pub use upsampled::upsample_conv2d;

/// `x` `[n, h, w, c_in]`, `weight` `[c_out, kh, kw, c_in]`, `bias` `[c_out]` -> `[n, ho, wo, c_out]`.
///
/// # Errors
/// [`crate::Error::Shape`] where the shapes do not fit, or the kernel is larger than the padded image.
pub fn conv2d(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: Padding,
) -> Result<Tensor> {
    conv2d_plus(tape, x, weight, bias, stride, padding, Plus::default())
}

/// What is added to the result of a convolution; all of it may be missing.
#[derive(Clone, Copy, Default)]
pub struct Plus<'a> {
    /// One value a sample and channel, `[n, c_out]`: a time embedding.
    pub t: Option<&'a Tensor>,
    /// Like the result.
    pub onto: Option<&'a Tensor>,
}

/// [`conv2d`] and what is added to its result: on a GPU in one pass over it.
///
/// # Errors
/// [`crate::Error::Shape`] where the shapes do not fit.
pub fn conv2d_plus(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: Padding,
    plus: Plus<'_>,
) -> Result<Tensor> {
    const OP: &str = "conv2d";
    let size = Size::of(OP, x, weight, bias, stride, padding)?;
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    if on_gpu::holds(OP, &inputs)? {
        let shape = [size.n, size.ho, size.wo, size.c_out];
        let plus = Plus { t: fitting(OP, plus.t, x, &[size.n, size.c_out])?, onto: fitting(OP, plus.onto, x, &shape)? };
        return on_gpu::conv2d(tape, x, weight, bias, plus, size.launch());
    }
    let dtype = x.dtype();
    let y = dispatch!(dtype, T => {
        let y = forward::<T>(&size, &x.reals::<T>(), weight, bias);
        Tensor::from_reals(y, &[size.n, size.ho, size.wo, size.c_out], dtype)
    });
    // Only the gradient of the weight reads `x`: a frozen layer does not keep it.
    let (saved, w) = (tape.wants(weight).then(|| x.clone()), weight.clone());
    tape.record(OP, [Some(x), Some(weight), bias], &y, move |dy, [wants_x, _, wants_bias]| {
        dispatch!(dtype, T => {
            let dy = dy.reals::<T>();
            let dx = wants_x.then(|| {
                let dx = input_gradient::<T>(&size, &dy, &w.reals::<T>());
                Tensor::from_reals(dx, &[size.n, size.h, size.w, size.c_in], dtype)
            });
            let dw = saved.map(|x| {
                let dw = weight_gradient::<T>(&size, &dy, &x.reals::<T>());
                Tensor::from_reals(dw, w.shape(), w.dtype().accumulator())
            });
            let db = || Tensor::from_reals(sum_rows::<T>(&dy, size.c_out), &[size.c_out], dtype.accumulator());
            Ok([dx, dw, wants_bias.then(db)])
        })
    });
    let y = plus.t.map_or(Ok(y.clone()), |t| add_channel_bias(tape, &y, t))?;
    plus.onto.map_or(Ok(y.clone()), |onto| add(tape, onto, &y))
}

fn forward<T: Gemm>(size: &Size, x: &[T], weight: &Tensor, bias: Option<&Tensor>) -> Vec<T> {
    let weight = weight.reals::<T>();
    let bias = bias.map(|b| b.reals::<T>());
    let patches = size.patches(x);
    let convolution = Convolution {
        data: x,
        size: patches.size,
        kernel: patches.kernel,
        pixels: patches.pixels,
        offset: patches.offset,
        out: size.c_out,
    };
    if size.stride == 1 && convolution.fits() {
        return convolution.run(bias.as_deref(), |ky, taps, to| {
            let steps = taps.len() * size.c_in;
            to.lines(0..steps, 1, |c_out| {
                let tap = (c_out * size.kh + ky) * size.kw + taps.start;
                Some(&weight[tap * size.c_in..][..steps])
            });
        });
    }
    let output = bias.as_ref().map_or(Output::Set, |b| Output::Bias(b));
    let weight = Matrix::lines(&weight, size.c_out, patches.values());
    let mut y = buffer::<T>(patches.count() * size.c_out);
    if size.pointwise() {
        product(&Matrix::lines(x, patches.count(), size.c_in), &weight, output, &mut y);
    } else {
        product(&patches, &weight, output, &mut y);
    }
    y
}

/// Input pixels that are a stride apart meet the same taps: one dense product for each of the stride^2 groups.
fn input_gradient<T: Gemm>(size: &Size, dy: &[T], weight: &[T]) -> Vec<T> {
    let Size { n, h, w, c_in, .. } = *size;
    if size.pointwise() {
        let mut dx = buffer::<T>(n * h * w * c_in);
        let dy = Matrix::lines(dy, n * h * w, size.c_out);
        product(&dy, &Matrix::steps(weight, size.c_out, c_in), Output::Set, &mut dx);
        return dx;
    }
    let turned = |k: usize, padding: usize| padding as isize + 1 - k as isize;
    let convolution = Convolution {
        data: dy,
        size: [size.ho, size.wo, size.c_out],
        kernel: [size.kh, size.kw],
        pixels: [n, h, w],
        offset: [turned(size.kh, size.padding.top), turned(size.kw, size.padding.left)],
        out: c_in,
    };
    if size.stride == 1 && convolution.fits() {
        return convolution.run(None, |ky, taps, to| {
            to.steps(taps.len() * size.c_out, |step| {
                let (kx, c_out) = (taps.start + step / size.c_out, step % size.c_out);
                // The last tap meets the first output pixel.
                let tap = (size.kh - 1 - ky) * size.kw + size.kw - 1 - kx;
                &weight[(c_out * size.kh * size.kw + tap) * c_in..][..c_in]
            });
        });
    }
    let mut dx = buffer::<T>(n * h * w * c_in);
    let axis =
        |length, kernel, padding| (0..size.stride).map(move |p| Phase::of(length, kernel, padding, size.stride, p));
    for rows in axis(h, size.kh, size.padding.top) {
        for columns in axis(w, size.kw, size.padding.left) {
            let taps = rows.taps.iter().flat_map(|ky| columns.taps.iter().map(move |kx| ky * size.kw + kx));
            let taps = Taps { weight, c_out: size.c_out, all_taps: size.kh * size.kw, c_in, taps: taps.collect() };
            let patches = Patches {
                data: dy,
                size: [size.ho, size.wo, size.c_out],
                kernel: [rows.taps.len(), columns.taps.len()],
                pixels: [n, rows.count, columns.count],
                step: 1,
                offset: [rows.offset, columns.offset],
                order: Order::ChannelsFirst,
            };
            if size.stride == 1 {
                product(&patches, &taps, Output::Set, &mut dx);
                continue;
            }
            let mut part = buffer::<T>(patches.count() * c_in);
            product(&patches, &taps, Output::Set, &mut part);
            for (i, pixel) in part.chunks_exact(c_in.max(1)).enumerate() {
                let (image, y, x) = (i / columns.count / rows.count, i / columns.count % rows.count, i % columns.count);
                let (y, x) = (rows.first + y * size.stride, columns.first + x * size.stride);
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
fn weight_gradient<T: Gemm>(size: &Size, dy: &[T], x: &[T]) -> Vec<T> {
    let patches = Transposed(size.patches(x));
    let mut dw = buffer::<T>(size.c_out * patches.0.values());
    let dy = Matrix::steps(dy, patches.0.count(), size.c_out);
    if size.pointwise() {
        let x = Matrix::steps(x, patches.0.count(), size.c_in);
        product(&dy, &x, Output::Set, &mut dw);
    } else {
        product(&dy, &patches, Output::Set, &mut dw);
    }
    dw
}
