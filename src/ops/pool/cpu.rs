//! Pooling on the CPU: a task is a row of the result, or an image in the gradient of x.

use std::ops::Range;

use rayon::prelude::*;

use super::Shape;
use crate::device::cpu::math::vectorized;
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Real, Tensor, buffer};

impl Shape {
    /// The pixels of window `(oy, ox)` that are inside of the image.
    fn pixels(&self, oy: usize, ox: usize) -> [Range<usize>; 2] {
        let axis = |o: usize, kernel: usize, padding: usize, size: usize| {
            let begin = o * self.window.stride;
            begin.saturating_sub(padding)..(begin + kernel - padding).min(size)
        };
        let ([kh, kw], [py, px]) = (self.window.kernel, self.window.padding);
        [axis(oy, kh, py, self.h), axis(ox, kw, px, self.w)]
    }

    /// Calls `reduce` with each window's result and its pixels, one after the other, and then `finish` with their number.
    fn each_window<T: Real>(
        &self,
        x: &Tensor,
        start: T,
        reduce: impl Fn(&mut [T], &[T]) + Sync,
        finish: impl Fn(&mut [T], usize) + Sync,
    ) -> Tensor {
        let Self { h, w, c, ho, wo, .. } = *self;
        let xs = x.reals::<T>();
        let mut out = buffer::<T>(self.n * ho * wo * c);
        out.par_chunks_mut(wo * c).enumerate().for_each(|(row, out)| {
            let (image, oy) = (row / ho, row % ho);
            vectorized(
                #[inline(always)]
                || {
                    for (ox, out) in out.chunks_exact_mut(c).enumerate() {
                        out.fill(start);
                        let [ys, xrange] = self.pixels(oy, ox);
                        let count = ys.len() * xrange.len();
                        for iy in ys {
                            for ix in xrange.clone() {
                                reduce(out, &xs[((image * h + iy) * w + ix) * c..][..c]);
                            }
                        }
                        finish(out, count);
                    }
                },
            );
        });
        Tensor::from_reals(out, &self.output(), x.dtype())
    }

    /// The gradient of x `[n, h, w, c]`, of which `add` fills each image's part from each window's `dy`.
    fn gradient<T: Real>(&self, dy: &Tensor, add: impl Fn(&mut [T], usize, [usize; 2], &[T]) + Sync) -> Tensor {
        let Self { h, w, c, ho, wo, .. } = *self;
        let dys = dy.reals::<T>();
        let mut dx = vec![T::default(); self.n * h * w * c];
        dx.par_chunks_mut(h * w * c).enumerate().for_each(|(image, dx)| {
            for (i, dy) in dys[image * ho * wo * c..][..ho * wo * c].chunks_exact(c).enumerate() {
                add(dx, image, [i / wo, i % wo], dy);
            }
        });
        Tensor::from_reals(dx, &self.input(), dy.dtype())
    }
}

/// A NaN is the maximum of any window that holds it.
#[inline(always)]
fn is_larger<T: Real>(x: T, best: T) -> bool {
    x > best || x.partial_cmp(&x).is_none()
}

#[inline(always)]
fn keep_larger<T: Real>(out: &mut [T], x: &[T]) {
    for (best, &x) in out.iter_mut().zip(x) {
        *best = if is_larger(x, *best) { x } else { *best };
    }
}

#[inline(always)]
fn add_to<T: Real>(out: &mut [T], x: &[T]) {
    out.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
}

pub fn max(shape: &Shape, x: &Tensor) -> Result<Tensor> {
    dispatch!(x.dtype(), T => Ok(max_of::<T>(shape, x)))
}

fn max_of<T: Real>(shape: &Shape, x: &Tensor) -> Tensor {
    shape.each_window(x, T::from_f64(f64::NEG_INFINITY), keep_larger::<T>, |_, _| ())
}

pub fn max_backward(shape: &Shape, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    dispatch!(dy.dtype(), T => Ok(max_backward_of::<T>(shape, dy, x)))
}

fn max_backward_of<T: Real>(shape: &Shape, dy: &Tensor, x: &Tensor) -> Tensor {
    let Shape { h, w, c, .. } = *shape;
    let xs = x.reals::<T>();
    shape.gradient::<T>(dy, |dx, image, [oy, ox], dy| {
        let [ys, xrange] = shape.pixels(oy, ox);
        for (channel, &dy) in dy.iter().enumerate() {
            let mut best = (T::from_f64(f64::NEG_INFINITY), ys.start * w + xrange.start);
            for pixel in ys.clone().flat_map(|iy| xrange.clone().map(move |ix| iy * w + ix)) {
                let x = xs[(image * h * w + pixel) * c + channel];
                if is_larger(x, best.0) {
                    best = (x, pixel);
                }
            }
            dx[best.1 * c + channel] += dy;
        }
    })
}

pub fn avg(shape: &Shape, x: &Tensor) -> Result<Tensor> {
    dispatch!(x.dtype(), T => Ok(avg_of::<T>(shape, x)))
}

fn avg_of<T: Real>(shape: &Shape, x: &Tensor) -> Tensor {
    shape.each_window(x, T::default(), add_to::<T>, |out, count| {
        let count = T::from_f64(count as f64);
        out.iter_mut().for_each(|sum| *sum = *sum / count);
    })
}

pub fn avg_backward(shape: &Shape, dy: &Tensor) -> Result<Tensor> {
    dispatch!(dy.dtype(), T => Ok(avg_backward_of::<T>(shape, dy)))
}

fn avg_backward_of<T: Real>(shape: &Shape, dy: &Tensor) -> Tensor {
    let Shape { w, c, .. } = *shape;
    shape.gradient::<T>(dy, |dx, _, [oy, ox], dy| {
        let [ys, xrange] = shape.pixels(oy, ox);
        let count = T::from_f64((ys.len() * xrange.len()) as f64);
        for pixel in ys.flat_map(|iy| xrange.clone().map(move |ix| iy * w + ix)) {
            dx[pixel * c..][..c].iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy / count);
        }
    })
}
