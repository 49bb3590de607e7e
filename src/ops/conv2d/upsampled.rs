//! A 3x3 convolution of a map at twice its size, without making that map: the four output pixels over a source pixel meet
//! 2x2 source pixels each, under sums of taps. That is 4 products where there were 9. On a GPU in 16 bits the sums are rounded
//! to the storage type, as the weights once were; on the CPU, which defines the op, nothing is rounded but the result.

use rayon::prelude::*;

use super::{ConvShape, Epilogue, Padding, conv2d, fitting_bias, gpu};
use crate::autograd::Tape;
use crate::device::Device;
use crate::device::gpu::Tile;
use crate::dispatch;
use crate::error::Result;
use crate::ops::upsample_nearest;
use crate::tensor::{Real, Tensor, buffer, device_of};

const OP: &str = "upsample_conv2d";
/// Source pixels that the sums of taps pay for, on the CPU and on a GPU.
const PIXELS: usize = 64;
const PIXELS_ON_GPU: usize = 256;

/// [`conv2d`] with a padding of 1 over [`upsample_nearest`] to twice the size: `x` `[n, h, w, c_in]`, `weight`
/// `[c_out, 3, 3, c_in]`, `bias` `[c_out]` -> `[n, 2 h, 2 w, c_out]`.
///
/// # Errors
/// [`crate::Error::Shape`] where the shapes do not fit.
pub fn upsample_conv2d(tape: &Tape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let [n, h, w, c_in] = x.dims(OP)?;
    let [c_out, kh, kw, _] = weight.dims(OP)?;
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let device = device_of(OP, &inputs)?;
    let pays = match device {
        Device::Cpu => x.dtype().master_dtype() == x.dtype() && n * h * w >= PIXELS,
        // Of channels that are no whole steps the kernels would multiply zeros for the taps that a pixel does not meet.
        Device::Gpu(_) => {
            let steps = [c_in, c_out].iter().all(|channels| channels.is_multiple_of(Tile::step(x.dtype())));
            steps && n * h * w >= PIXELS_ON_GPU
        }
    };
    let trained = inputs[1..].iter().any(|input| tape.wants(input));
    if trained || !pays || [kh, kw] != [3, 3] {
        let x = upsample_nearest(tape, x, 2 * h, 2 * w)?;
        return conv2d(tape, &x, weight, bias, 1, Padding::all(1));
    }
    if device != Device::Cpu {
        return transposed(tape, x, weight, bias);
    }
    let phase = |[py, px]: [usize; 2]| {
        let taps = dispatch!(x.dtype(), T => sums_of_taps::<T>(weight, [py, px]));
        let padding = Padding { top: 1 - py, left: 1 - px, bottom: py, right: px };
        conv2d(tape, x, &taps, bias, 1, padding)
    };
    let phases = [phase([0, 0])?, phase([0, 1])?, phase([1, 0])?, phase([1, 1])?];
    let y = dispatch!(x.dtype(), T => interleave::<T>(&phases));
    tape.record(OP, phases.each_ref(), &y, |dy, _| {
        Ok(dispatch!(dy.dtype(), T => [0, 1, 2, 3].map(|phase| Some(take::<T>(dy, phase)))))
    });
    Ok(y)
}

/// On a GPU: the transpose of one convolution of stride 2, whose output is `x`. Its weights are made anew for the gradient:
/// that takes a thousandth of a step, and keeping them would take 16 values where the layer has 9.
fn transposed(tape: &Tape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let ([n, h, w, c_in], of_weight) = (x.dims(OP)?, weight.dims(OP)?);
    let upsampled = ConvShape::new([n, 2 * h, 2 * w, c_in], of_weight, 1, Padding::all(1))?;
    fitting_bias(bias, weight)?;
    let shape = ConvShape::new(upsampled.y(), [c_in, 4, 4, upsampled.c_out], 2, Padding::all(1))?;
    let y = gpu::transposed(&shape, x, &gpu::upsampled_taps(weight)?, bias)?;
    let weight = weight.clone();
    tape.record(OP, [x], &y, move |dy, _| {
        let taps = gpu::upsampled_taps(&weight)?;
        Ok([Some(gpu::forward(&shape, dy, &taps, None, Epilogue::default())?)])
    });
    Ok(y)
}

/// The weights `[c_out, 2, 2, c_in]` of the output pixels at odd (1) or even (0) rows and columns: along an axis the even
/// ones meet source pixels -1 (tap 0) and 0 (taps 1 and 2), the odd ones 0 (taps 0 and 1) and 1 (tap 2).
fn sums_of_taps<T: Real>(weight: &Tensor, [py, px]: [usize; 2]) -> Tensor {
    let &[c_out, _, _, c_in] = weight.shape() else { unreachable!("checked by the op") };
    let w = weight.reals::<T>();
    let taps = |odd: usize, source: usize| match (odd, source) {
        (0, 0) => 0..1,
        (0, _) => 1..3,
        (_, 0) => 0..2,
        _ => 2..3,
    };
    let mut sums = buffer::<T>(c_out * 4 * c_in);
    let kernels = sums.par_chunks_mut((4 * c_in).max(1)).zip(w.par_chunks((9 * c_in).max(1)));
    kernels.for_each(|(sums, w)| {
        sums.fill(T::default());
        for (at, sums) in sums.chunks_exact_mut(c_in).enumerate() {
            for ky in taps(py, at / 2) {
                for kx in taps(px, at % 2) {
                    let w = &w[(3 * ky + kx) * c_in..][..c_in];
                    sums.iter_mut().zip(w).for_each(|(sum, &w)| *sum += w);
                }
            }
        }
    });
    Tensor::new(sums, &[c_out, 2, 2, c_in])
}

/// Four maps `[n, h, w, c]` of the pixels at even rows and columns, even and odd, odd and even, odd ones
/// -> `[n, 2 h, 2 w, c]`.
fn interleave<T: Real>(phases: &[Tensor; 4]) -> Tensor {
    let &[n, h, w, c] = phases[0].shape() else { unreachable!("a result of conv2d") };
    let maps = phases.each_ref().map(|phase| phase.data::<T>());
    let mut y = buffer::<T>(n * 4 * h * w * c);
    y.par_chunks_mut((2 * w * c).max(1)).enumerate().for_each(|(row, y)| {
        let source = row / 2 * w * c;
        for (x, pixels) in y.chunks_exact_mut(2 * c).enumerate() {
            let (even, odd) = pixels.split_at_mut(c);
            even.copy_from_slice(&maps[row % 2 * 2][source + x * c..][..c]);
            odd.copy_from_slice(&maps[row % 2 * 2 + 1][source + x * c..][..c]);
        }
    });
    Tensor::new(y, &[n, 2 * h, 2 * w, c])
}

/// The reverse of [`interleave`]: the pixels of one of the four maps.
fn take<T: Real>(y: &Tensor, phase: usize) -> Tensor {
    let &[n, h, w, c] = y.shape() else { unreachable!("a result of interleave") };
    let y = y.data::<T>();
    let mut map = buffer::<T>(n * h / 2 * (w / 2) * c);
    map.par_chunks_mut((w / 2 * c).max(1)).enumerate().for_each(|(row, map)| {
        let source = &y[(2 * row + phase / 2) * w * c..][..w * c];
        for (pixel, pair) in map.chunks_exact_mut(c).zip(source.chunks_exact(2 * c)) {
            pixel.copy_from_slice(&pair[phase % 2 * c..][..c]);
        }
    });
    Tensor::new(map, &[n, h / 2, w / 2, c])
}
