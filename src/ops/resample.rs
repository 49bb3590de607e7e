//! Nearest-neighbour upsampling.

use rayon::prelude::*;

use crate::autograd::Tape;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{Real, Tensor, buffer};

use super::elementwise::float;
use super::on_gpu;

/// `x` `[n, h, w, c]` -> `[n, height, width, c]`, source index `floor(i * h / height)` as PyTorch's
/// `interpolate(mode="nearest")`.
pub fn upsample_nearest(tape: &Tape, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    const OP: &str = "upsample_nearest";
    float(OP, x)?;
    let [n, h, w, c] = x.dims(OP)?;
    if x.is_empty() || height == 0 || width == 0 {
        return Err(Error::shape(OP, format!("{x:?} to {height}x{width} has no pixels")));
    }
    if on_gpu::holds(OP, &[x])? {
        return on_gpu::upsample_nearest(tape, x, [n, h, w, c], [height, width]);
    }
    let (ys, xs) = (sources(h, height), sources(w, width));
    let out = dispatch!(x.dtype(), T => forward::<T>(x, &ys, &xs));
    tape.record(OP, [x], &out, move |dy, _| {
        Ok([Some(dispatch!(dy.dtype(), T => backward::<T>(dy, &ys, &xs, [n, h, w, c])))])
    });
    Ok(out)
}

/// The source of each of `to` positions among `from`. The ratio is rounded to f32 first, as PyTorch does.
fn sources(from: usize, to: usize) -> Vec<usize> {
    let ratio = from as f32 / to as f32;
    (0..to).map(|i| ((i as f32 * ratio) as usize).min(from - 1)).collect()
}

fn forward<T: Real>(x: &Tensor, ys: &[usize], xs: &[usize]) -> Tensor {
    let &[n, h, w, c] = x.shape() else { unreachable!("checked by the op") };
    let data = x.reals::<T>();
    let mut out = buffer::<T>(n * ys.len() * xs.len() * c);
    out.par_chunks_mut(xs.len() * c).enumerate().for_each(|(i, out)| {
        let (sample, y) = (i / ys.len(), ys[i % ys.len()]);
        let row = &data[(sample * h + y) * w * c..][..w * c];
        for (out, &x) in out.chunks_exact_mut(c).zip(xs) {
            out.copy_from_slice(&row[x * c..][..c]);
        }
    });
    Tensor::from_reals(out, &[n, ys.len(), xs.len(), c], x.dtype())
}

/// Each source pixel gathers the gradients of its copies, row by row.
fn backward<T: Real>(dy: &Tensor, ys: &[usize], xs: &[usize], shape: [usize; 4]) -> Tensor {
    let [_, h, w, c] = shape;
    let data = dy.reals::<T>();
    let mut dx = vec![T::default(); shape.iter().product()];
    dx.par_chunks_mut(w * c).enumerate().for_each(|(i, dx)| {
        let (sample, y) = (i / h, i % h);
        for (above, _) in ys.iter().enumerate().filter(|&(_, &source)| source == y) {
            let row = &data[(sample * ys.len() + above) * xs.len() * c..][..xs.len() * c];
            for (dy, &x) in row.chunks_exact(c).zip(xs) {
                for (sum, &g) in dx[x * c..][..c].iter_mut().zip(dy) {
                    *sum += g;
                }
            }
        }
    });
    Tensor::from_reals(dx, &shape, dy.dtype())
}
