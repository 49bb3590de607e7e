//! GroupNorm over `[n, h, w, c]`, optionally followed by SiLU in the same pass.

use rayon::prelude::*;

use super::elementwise::float;
use crate::autograd::Tape;
use crate::device::cpu::math::{Elementary, vectorized};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, buffer};

/// Pixels that one partial sum covers and one task works on.
const PIXELS: usize = 64;

/// Normalises each of `groups` channel groups of `x` `[n, h, w, c]`, scales and shifts each channel by `weight` and
/// `bias` `[c]` (f32, or f64 for an f64 `x`), then applies SiLU where `silu` is set. The backward pass computes what
/// SiLU read once more instead of keeping it.
pub fn group_norm(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    const OP: &str = "group_norm";
    float(OP, x)?;
    let [n, h, w, c] = x.dims(OP)?;
    if x.is_empty() || groups == 0 || c % groups != 0 || weight.shape() != [c] || bias.shape() != [c] {
        return Err(Error::shape(
            OP,
            format!("{groups} groups, weight {weight:?} and bias {bias:?} do not fit {x:?}"),
        ));
    }
    let norm = Norm {
        n,
        pixels: h * w,
        c,
        groups,
        silu,
    };
    let wants = [tape.wants(x), tape.wants(weight), tape.wants(bias)];
    dispatch!(x.dtype(), T => {
        let (out, statistics) = norm.forward::<T>(x, weight, bias, eps);
        let (x_saved, w_saved, b_saved) = (x.clone(), weight.clone(), bias.clone());
        tape.record(OP, &[x, weight, bias], &out, move |dy| {
            Ok(norm.backward::<T>(&x_saved, &w_saved, &b_saved, &statistics, dy, wants))
        });
        Ok(out)
    })
}

#[derive(Clone, Copy)]
struct Norm {
    n: usize,
    pixels: usize,
    c: usize,
    groups: usize,
    silu: bool,
}

/// Mean and 1 / sqrt(variance + eps) of each sample's channels, `[n, c]`: those of a group are equal.
struct Statistics<T> {
    mean: Vec<T>,
    inverse: Vec<T>,
}

impl Norm {
    fn forward<T: Elementary>(self, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> (Tensor, Statistics<T>) {
        let Norm { c, silu, .. } = self;
        let (xs, w, b) = (x.reals::<T>(), weight.reals::<T>(), bias.reals::<T>());
        let statistics = self.statistics(&xs, eps);
        let mut out = buffer::<T>(xs.len());
        out.par_chunks_mut(self.pixels * c)
            .zip(xs.par_chunks(self.pixels * c))
            .enumerate()
            .for_each(|(i, (out, x))| {
                let (mean, inverse) = statistics.sample(i, c);
                out.par_chunks_mut(PIXELS * c)
                    .zip(x.par_chunks(PIXELS * c))
                    .for_each(|(out, x)| {
                        vectorized(
                            #[inline(always)]
                            || {
                                for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                                    for (j, (y, &x)) in out.iter_mut().zip(x).enumerate() {
                                        let z = ((x - mean[j]) * inverse[j]).mul_add(w[j], b[j]);
                                        *y = if silu { z.silu() } else { z };
                                    }
                                }
                            },
                        );
                    });
            });
        (Tensor::from_reals(out, x.shape(), x.dtype()), statistics)
    }

    /// Two passes: the variance is that of differences to the mean.
    fn statistics<T: Elementary>(self, xs: &[T], eps: f64) -> Statistics<T> {
        let Norm { n, c, groups, .. } = self;
        let values = (self.pixels * c / groups) as f64;
        let mut statistics = Statistics {
            mean: vec![T::default(); n * c],
            inverse: vec![T::default(); n * c],
        };
        for (i, x) in xs.chunks_exact(self.pixels * c).enumerate() {
            let mean = &mut statistics.mean[i * c..][..c];
            let sums = self.channel_sums(
                x,
                #[inline(always)]
                |sums, at| {
                    for (sum, &x) in sums[0].iter_mut().zip(&x[at..]) {
                        *sum += x;
                    }
                },
            );
            self.spread(&sums[0], mean, |sum| sum / values);
            let mean = &*mean;
            let sums = self.channel_sums(
                x,
                #[inline(always)]
                |sums, at| {
                    for ((sum, &x), &mean) in sums[0].iter_mut().zip(&x[at..]).zip(mean) {
                        *sum += (x - mean) * (x - mean);
                    }
                },
            );
            let inverse = &mut statistics.inverse[i * c..][..c];
            self.spread(&sums[0], inverse, |sum| 1.0 / (sum / values + eps).sqrt());
        }
        statistics
    }

    /// Adds up two sums a channel over one sample `x`: `add(sums, at)` takes in the pixel whose channels start at `at`.
    /// Partial sums over [`PIXELS`] pixels are added in f64 in their order.
    fn channel_sums<T: Elementary>(self, x: &[T], add: impl Fn(&mut [Vec<T>; 2], usize) + Sync) -> [Vec<f64>; 2] {
        let c = self.c;
        let partial: Vec<[Vec<T>; 2]> = x
            .par_chunks(PIXELS * c)
            .enumerate()
            .map(|(i, block)| {
                let mut sums = [vec![T::default(); c], vec![T::default(); c]];
                vectorized(
                    #[inline(always)]
                    || {
                        for pixel in 0..block.len() / c {
                            add(&mut sums, (i * PIXELS + pixel) * c);
                        }
                    },
                );
                sums
            })
            .collect();
        let mut sums = [vec![0.0; c], vec![0.0; c]];
        for partial in partial {
            for (sums, partial) in sums.iter_mut().zip(partial) {
                sums.iter_mut().zip(partial).for_each(|(sum, p)| *sum += p.to_f64());
            }
        }
        sums
    }

    /// Adds channel values up over each group and writes `f` of the sum to all of its channels.
    fn spread<T: Elementary>(self, channels: &[f64], to: &mut [T], f: impl Fn(f64) -> f64) {
        let width = self.c / self.groups;
        for (to, channels) in to.chunks_exact_mut(width).zip(channels.chunks_exact(width)) {
            to.fill(T::from_f64(f(channels.iter().sum())));
        }
    }

    /// The gradient before SiLU, from the one after it.
    #[inline(always)]
    fn before_silu<T: Elementary>(self, dy: T, normal: T, w: T, b: T) -> T {
        if self.silu {
            dy * normal.mul_add(w, b).silu_slope()
        } else {
            dy
        }
    }

    /// Gradients of x, weight and bias where wanted. With g the gradient before SiLU, w the weight and n the normalised
    /// value: dx = (w g - mean(w g) - n mean(w g n)) / deviation, means over the group.
    fn backward<T: Elementary>(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        statistics: &Statistics<T>,
        dy: &Tensor,
        wants: [bool; 3],
    ) -> Vec<Option<Tensor>> {
        let Norm { n, c, groups, .. } = self;
        let (xs, w, b, dys) = (x.reals::<T>(), weight.reals::<T>(), bias.reals::<T>(), dy.reals::<T>());
        let values = (self.pixels * c / groups) as f64;
        let mut dweight = vec![0.0; c];
        let mut dbias = vec![0.0; c];
        let mut dx = buffer::<T>(if wants[0] { xs.len() } else { 0 });
        for i in 0..n {
            let sample = i * self.pixels * c..(i + 1) * self.pixels * c;
            let (x, dy) = (&xs[sample.clone()], &dys[sample.clone()]);
            let (mean, inverse) = statistics.sample(i, c);
            let [along, plain] = self.channel_sums(
                x,
                #[inline(always)]
                |sums, at| {
                    let [along, plain] = sums;
                    let values = x[at..][..c].iter().zip(&dy[at..][..c]).zip(along).zip(plain);
                    for (j, (((&x, &dy), along), plain)) in values.enumerate() {
                        let normal = (x - mean[j]) * inverse[j];
                        let g = self.before_silu(dy, normal, w[j], b[j]);
                        *along += g * normal;
                        *plain += g;
                    }
                },
            );
            dweight.iter_mut().zip(&along).for_each(|(sum, a)| *sum += a);
            dbias.iter_mut().zip(&plain).for_each(|(sum, p)| *sum += p);
            if !wants[0] {
                continue;
            }
            let weighted = |sums: &[f64]| -> Vec<T> {
                let products: Vec<f64> = sums.iter().zip(&*w).map(|(s, w)| s * w.to_f64()).collect();
                let mut means = vec![T::default(); c];
                self.spread(&products, &mut means, |sum| sum / values);
                means
            };
            let (along, plain) = (weighted(&along), weighted(&plain));
            let tasks = dx[sample].par_chunks_mut(PIXELS * c).zip(x.par_chunks(PIXELS * c));
            tasks.zip(dy.par_chunks(PIXELS * c)).for_each(|((dx, x), dy)| {
                vectorized(
                    #[inline(always)]
                    || {
                        let pixels = dx.chunks_exact_mut(c).zip(x.chunks_exact(c));
                        for ((dx, x), dy) in pixels.zip(dy.chunks_exact(c)) {
                            for (j, ((dx, &x), &dy)) in dx.iter_mut().zip(x).zip(dy).enumerate() {
                                let normal = (x - mean[j]) * inverse[j];
                                let g = self.before_silu(dy, normal, w[j], b[j]);
                                *dx = inverse[j] * (w[j] * g - plain[j] - normal * along[j]);
                            }
                        }
                    },
                );
            });
        }
        let parameter = |sums: Vec<f64>, dtype: DType| Tensor::from_reals(sums, &[c], dtype.accumulator());
        vec![
            wants[0].then(|| Tensor::from_reals(dx, x.shape(), x.dtype())),
            wants[1].then(|| parameter(dweight, weight.dtype())),
            wants[2].then(|| parameter(dbias, bias.dtype())),
        ]
    }
}

impl<T> Statistics<T> {
    fn sample(&self, i: usize, c: usize) -> (&[T], &[T]) {
        (&self.mean[i * c..][..c], &self.inverse[i * c..][..c])
    }
}
