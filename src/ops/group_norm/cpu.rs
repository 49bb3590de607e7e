//! GroupNorm on the CPU: tasks are samples, and blocks of their pixels.

use rayon::prelude::*;

use super::{Shape, channels};
use crate::device::cpu::math::{Elementary, vectorized};
use crate::dispatch;
use crate::error::Result;
use crate::ops::rows::cpu::{concat_channels, slice_channels};
use crate::tensor::{DType, Tensor, buffer};

/// Values that one partial sum covers and one task works on: they fit into the first cache.
const BLOCK: usize = 1 << 13;
/// Values that the innermost loops run over at least, if there are as many: several pixels where these have few channels.
const RUN: usize = 256;

/// The result, and mean and 1 / sqrt(variance + eps) of each channel `[n, c]`: those of a group are equal.
pub fn forward(shape: &Shape, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, [Tensor; 2])> {
    dispatch!(x.dtype(), T => Ok(shape.forward::<T>(x, weight, bias)))
}

/// The gradients of x, weight and bias where wanted.
pub fn backward(
    shape: &Shape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    statistics: &[Tensor; 2],
    (dy, onto): (&Tensor, Option<Tensor>),
    wants: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let [dx, dweight, dbias] = dispatch!(x.dtype(), T => shape.backward::<T>(x, weight, bias, statistics, dy, wants));
    Ok([dx.map(|dx| dx.added_onto(onto)).transpose()?, dweight, dbias])
}

/// [`forward`] of x and skip side by side, and the two so.
pub fn forward_concat(
    shape: &Shape,
    [x, skip]: [&Tensor; 2],
    weight: &Tensor,
    bias: &Tensor,
) -> Result<(Tensor, Tensor, [Tensor; 2])> {
    let both = concat_channels(x, skip, [x, skip].map(channels))?;
    let (y, statistics) = forward(shape, &both, weight, bias)?;
    Ok((y, both, statistics))
}

/// [`backward`] of two tensors side by side, `x`: the gradients of those, of `widths` channels, weight and bias.
pub fn backward_concat(
    shape: &Shape,
    x: &Tensor,
    widths: [usize; 2],
    [weight, bias]: [&Tensor; 2],
    statistics: &[Tensor; 2],
    gradients: (&Tensor, Option<Tensor>),
    wants: [bool; 4],
) -> Result<[Option<Tensor>; 4]> {
    let wanted = [wants[0] || wants[1], wants[2], wants[3]];
    let [both, dweight, dbias] = backward(shape, x, weight, bias, statistics, gradients, wanted)?;
    let part = |wanted: bool, start, width| match &both {
        Some(both) if wanted => slice_channels(both, start, width).map(Some),
        _ => Ok(None),
    };
    Ok([part(wants[0], 0, widths[0])?, part(wants[1], widths[0], widths[1])?, dweight, dbias])
}

impl Shape {
    fn forward<T: Elementary>(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> (Tensor, [Tensor; 2]) {
        let (xs, w, b) = (x.reals::<T>(), weight.reals::<T>(), bias.reals::<T>());
        let (w, b) = (self.run_of(&w), self.run_of(&b));
        let mut out = buffer::<T>(xs.len());
        let samples = out.par_chunks_mut(self.sample()).zip(xs.par_chunks(self.sample()));
        let statistics = samples.map(|(out, x)| {
            let [mean, inverse] = self.statistics(x);
            let (mean_run, inverse_run) = (self.run_of(&mean), self.run_of(&inverse));
            let blocks = out.par_chunks_mut(self.block()).zip(x.par_chunks(self.block()));
            blocks.for_each(|(out, x)| {
                vectorized(
                    #[inline(always)]
                    || {
                        for (out, x) in out.chunks_mut(self.run()).zip(x.chunks(self.run())) {
                            let channels = mean_run.iter().zip(&inverse_run).zip(w.iter().zip(&b));
                            for ((y, &x), ((&mean, &inverse), (&w, &b))) in out.iter_mut().zip(x).zip(channels) {
                                let z = ((x - mean) * inverse).mul_add(w, b);
                                *y = if self.silu { z.silu() } else { z };
                            }
                        }
                    },
                );
            });
            (mean, inverse)
        });
        let (means, inverses): (Vec<_>, Vec<_>) = statistics.unzip();
        let statistics = [means, inverses].map(|samples| Tensor::new(samples.concat(), &[self.n, self.c]));
        (Tensor::from_reals(out, x.shape(), x.dtype()), statistics)
    }

    /// Values of a sample.
    fn sample(&self) -> usize {
        self.pixels * self.c
    }

    /// Values of the innermost loops: a whole number of pixels.
    fn run(&self) -> usize {
        self.c * (RUN / self.c).max(1)
    }

    /// Values of a task: a whole number of runs.
    fn block(&self) -> usize {
        self.run() * (BLOCK / self.run()).max(1)
    }

    /// Values of the channels, repeated for the pixels of a run.
    fn run_of<T: Elementary>(&self, channels: &[T]) -> Vec<T> {
        channels.repeat(self.run() / self.c)
    }

    /// Of one sample, in two passes: the variance is that of differences to the mean.
    fn statistics<T: Elementary>(&self, x: &[T]) -> [Vec<T>; 2] {
        let sums = self.sums(
            x,
            #[inline(always)]
            |_, x| x,
            &vec![T::default(); self.run()],
        );
        let mean: Vec<T> = self.of_groups(&sums, |mean| mean);
        let sums = self.sums(
            x,
            #[inline(always)]
            |mean, x| (x - mean) * (x - mean),
            &self.run_of(&mean),
        );
        let inverse = self.of_groups(&sums, |variance| 1.0 / (variance + self.eps).sqrt());
        [mean, inverse]
    }

    /// The sum of `f` over the pixels of one sample `x`, a channel; `f` is told the channel's value in `run` too.
    fn sums<T: Elementary>(&self, x: &[T], f: impl Fn(T, T) -> T + Sync, run: &[T]) -> Vec<f64> {
        let partial = x.par_chunks(self.block()).map(|x| {
            let mut sums = vec![T::default(); self.run()];
            vectorized(
                #[inline(always)]
                || {
                    for x in x.chunks(self.run()) {
                        for ((sum, &x), &channel) in sums.iter_mut().zip(x).zip(run) {
                            *sum += f(channel, x);
                        }
                    }
                },
            );
            sums
        });
        let mut sums = vec![0.0; self.c];
        self.add_up(&mut sums, partial.collect::<Vec<_>>().concat());
        sums
    }

    /// Adds `values` of whole pixels to the sums of their channels, in f64 and in their order.
    fn add_up<T: Elementary>(&self, sums: &mut [f64], values: Vec<T>) {
        for pixel in values.chunks_exact(self.c) {
            sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value.to_f64());
        }
    }

    /// `f` of the mean over each group, for all of its channels, from the sums of the channels.
    fn of_groups<T: Elementary>(&self, sums: &[f64], f: impl Fn(f64) -> f64) -> Vec<T> {
        let width = self.c / self.groups;
        let values = (self.pixels * width) as f64;
        let groups = sums.chunks_exact(width).map(|group| T::from_f64(f(group.iter().sum::<f64>() / values)));
        groups.flat_map(|value| std::iter::repeat_n(value, width)).collect()
    }

    /// With g the gradient before SiLU, w the weight and n the normalised value:
    /// dx = (w g - mean(w g) - n mean(w g n)) / deviation, means over the group.
    fn backward<T: Elementary>(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        statistics: &[Tensor; 2],
        dy: &Tensor,
        wants: [bool; 3],
    ) -> [Option<Tensor>; 3] {
        let (xs, w, b, dys) = (x.reals::<T>(), weight.reals::<T>(), bias.reals::<T>(), dy.reals::<T>());
        let [mean, inverse] = statistics.each_ref().map(|channels| channels.data::<T>().par_chunks(self.c));
        let mut dx = buffer::<T>(xs.len());
        let tasks = dx.par_chunks_mut(self.sample()).zip(xs.par_chunks(self.sample()));
        let tasks = tasks.zip(dys.par_chunks(self.sample())).zip(mean.zip(inverse));
        let sums = tasks.map(|(((dx, x), dy), (mean, inverse))| {
            let statistics = [mean, inverse].map(|channels| self.run_of(channels));
            let [along, plain] = self.before_silu(dx, x, dy, &statistics, &w, &b);
            if wants[0] {
                self.input_gradient(dx, x, &statistics, &w, [&along, &plain]);
            }
            [along, plain]
        });
        let sums: Vec<_> = sums.collect();
        let parameter = |which: usize, dtype: DType| {
            let mut total = vec![0.0; self.c];
            for sums in &sums {
                total.iter_mut().zip(&sums[which]).for_each(|(total, sum)| *total += sum);
            }
            Tensor::from_reals(total, &[self.c], dtype.master_dtype())
        };
        [
            wants[0].then(|| Tensor::from_reals(dx, x.shape(), x.dtype())),
            wants[1].then(|| parameter(0, weight.dtype())),
            wants[2].then(|| parameter(1, bias.dtype())),
        ]
    }

    /// Writes g, and adds up g n and g over the pixels; `statistics` as runs, here and below.
    fn before_silu<T: Elementary>(
        &self,
        g: &mut [T],
        x: &[T],
        dy: &[T],
        [mean, inverse]: &[Vec<T>; 2],
        w: &[T],
        b: &[T],
    ) -> [Vec<f64>; 2] {
        let (w, b) = (self.run_of(w), self.run_of(b));
        let (block, run) = (self.block(), self.run());
        let tasks = g.par_chunks_mut(block).zip(x.par_chunks(block)).zip(dy.par_chunks(block));
        let partial = tasks.map(|((g, x), dy)| {
            let (mut along, mut plain) = (vec![T::default(); run], vec![T::default(); run]);
            vectorized(
                #[inline(always)]
                || {
                    for ((g, x), dy) in g.chunks_mut(run).zip(x.chunks(run)).zip(dy.chunks(run)) {
                        let channels = mean.iter().zip(inverse).zip(w.iter().zip(&b));
                        let sums = along.iter_mut().zip(&mut plain);
                        let values = g.iter_mut().zip(x).zip(dy).zip(channels).zip(sums);
                        for ((((g, &x), &dy), ((&mean, &inverse), (&w, &b))), (along, plain)) in values {
                            let normal = (x - mean) * inverse;
                            *g = if self.silu { dy * normal.mul_add(w, b).silu_slope() } else { dy };
                            *along += *g * normal;
                            *plain += *g;
                        }
                    }
                },
            );
            [along, plain]
        });
        let mut sums = [vec![0.0; self.c], vec![0.0; self.c]];
        for partial in partial.collect::<Vec<_>>() {
            for (sums, partial) in sums.iter_mut().zip(partial) {
                self.add_up(sums, partial);
            }
        }
        sums
    }

    /// Turns g into dx, given the sums of g n and g.
    fn input_gradient<T: Elementary>(
        &self,
        dx: &mut [T],
        x: &[T],
        [mean, inverse]: &[Vec<T>; 2],
        w: &[T],
        sums: [&[f64]; 2],
    ) {
        let [along, plain] = sums.map(|sums| {
            let weighted: Vec<f64> = sums.iter().zip(w).map(|(sum, w)| sum * w.to_f64()).collect();
            self.run_of(&self.of_groups::<T>(&weighted, |mean| mean))
        });
        let w = self.run_of(w);
        let tasks = dx.par_chunks_mut(self.block()).zip(x.par_chunks(self.block()));
        tasks.for_each(|(dx, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (dx, x) in dx.chunks_mut(self.run()).zip(x.chunks(self.run())) {
                        let channels = mean.iter().zip(inverse).zip(&w).zip(along.iter().zip(&plain));
                        for ((dx, &x), (((&mean, &inverse), &w), (&along, &plain))) in
                            dx.iter_mut().zip(x).zip(channels)
                        {
                            let normal = (x - mean) * inverse;
                            *dx = inverse * (w * *dx - plain - normal * along);
                        }
                    }
                },
            );
        });
    }
}
