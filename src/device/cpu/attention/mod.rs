//! Softmax attention of one head, a panel of queries at a time (the online softmax of Milakov and Gimelshein 2018,
//! arXiv:1805.02867; tiled as in Dao et al. 2022, arXiv:2205.14135).
//!
//! The lanes of a vector are queries: scores are `[keys, panel]`, and the softmax runs down the keys. So nothing is
//! added across lanes, every sum has the order of the keys whatever the width of the vectors, and head sizes that fill no
//! vector waste none. Scores count in powers of two: the scale of the queries holds log2 e.

mod products;

use products::{Left, QuerySum, multiply, pack, unpack};

use super::gemm::{Gemm, VECTORS};
use super::heads::{Head, HeadMut};
use super::math::{Elementary, vectorized};

/// Keys whose scores are in the first cache at a time.
const KEYS: usize = 128;

/// What a head attends with.
#[derive(Clone, Copy)]
pub struct Inputs<'a, T> {
    pub q: Head<'a, T>,
    pub k: Head<'a, T>,
    pub v: Head<'a, T>,
    /// Whether query `i` sees keys `0..=i` only.
    pub causal: bool,
}

/// The gradients that are wanted.
pub struct Gradients<'a, T> {
    pub q: Option<HeadMut<'a, T>>,
    pub k: Option<HeadMut<'a, T>>,
    pub v: Option<HeadMut<'a, T>>,
}

/// Calls `$f` with the number of queries in a panel of this processor's matrix kernel.
macro_rules! with_width {
    ($T:ident, $f:ident($($argument:expr),*)) => {
        match VECTORS * $T::kernel().lanes {
            8 => $f::<$T, 8>($($argument),*),
            16 => $f::<$T, 16>($($argument),*),
            32 => $f::<$T, 32>($($argument),*),
            width => unreachable!("no matrix kernel has panels of {width} columns"),
        }
    };
}

/// softmax(q k^T / sqrt(size)) v for the queries from `top` on that `out` has rows for. `log_sums` gets the log2 of each
/// query's sum of 2^score.
pub fn forward<T: Gemm + Elementary>(inputs: Inputs<'_, T>, top: usize, out: HeadMut<'_, T>, log_sums: HeadMut<'_, T>) {
    with_width!(T, forward_panels(inputs, top, out, log_sums))
}

/// Gradients, given the result `y`, its gradient `dy` and the `log_sums` of [`forward`]. With P the probabilities and
/// D = rowsum(y dy): dv = P^T dy, dS = P (dy v^T - D), dq = dS k / sqrt(size), dk = dS^T q / sqrt(size).
pub fn backward<T: Gemm + Elementary>(
    inputs: Inputs<'_, T>,
    y: Head<'_, T>,
    dy: Head<'_, T>,
    log_sums: Head<'_, T>,
    gradients: Gradients<'_, T>,
) {
    with_width!(T, backward_panels(inputs, y, dy, log_sums, gradients))
}

impl<T: Gemm + Elementary> Inputs<'_, T> {
    /// 1 / sqrt(size).
    fn scale(&self) -> T {
        T::from_f64(1.0 / (self.q.size as f64).sqrt())
    }

    /// What makes scores count in powers of two.
    fn scale_of_queries(&self) -> T {
        T::from_f64(std::f64::consts::LOG2_E / (self.q.size as f64).sqrt())
    }

    /// How many keys query `i` sees.
    fn visible(&self, i: usize) -> usize {
        if self.causal {
            self.k.rows.min(i + 1)
        } else {
            self.k.rows
        }
    }

    /// Scores of keys from `from` on for queries from `first` on; with `causal`, hidden keys score -infinity.
    fn scores<const W: usize>(&self, queries: &[[T; W]], from: usize, first: usize, scores: &mut [[T; W]]) {
        multiply(Left::rows(self.k, from), queries, scores, false);
        if self.causal {
            for (key, scores) in (from..).zip(scores) {
                let hidden = key.saturating_sub(first).min(W);
                scores[..hidden].fill(T::from_f64(f64::NEG_INFINITY));
            }
        }
    }
}

fn forward_panels<T: Gemm + Elementary, const W: usize>(
    inputs: Inputs<'_, T>,
    top: usize,
    mut out: HeadMut<'_, T>,
    mut log_sums: HeadMut<'_, T>,
) {
    let Inputs { q, k, v, .. } = inputs;
    let mut queries = vec![[T::default(); W]; q.size];
    let mut sums = vec![[T::default(); W]; q.size];
    let mut scores = vec![[T::default(); W]; KEYS.min(k.rows)];
    for first in (0..out.rows).step_by(W) {
        let lanes = W.min(out.rows - first);
        pack(q, top + first, lanes, inputs.scale_of_queries(), &mut queries);
        let mut softmax = Softmax::<T, W>::new();
        let visible = inputs.visible(top + first + lanes - 1);
        for from in (0..visible).step_by(KEYS) {
            let scores = &mut scores[..KEYS.min(visible - from)];
            inputs.scores(&queries, from, top + first, scores);
            vectorized(
                #[inline(always)]
                || {
                    let rescale = softmax.next(scores);
                    if from > 0 {
                        for sums in &mut sums {
                            for (sum, &factor) in sums.iter_mut().zip(&rescale) {
                                *sum *= factor;
                            }
                        }
                    }
                },
            );
            multiply(Left::columns(v, from), scores, &mut sums, from > 0);
        }
        vectorized(
            #[inline(always)]
            || {
                let inverse = softmax.sums.map(|sum| T::from_f64(1.0) / sum);
                for sums in &mut sums {
                    for (sum, &inverse) in sums.iter_mut().zip(&inverse) {
                        *sum *= inverse;
                    }
                }
            },
        );
        unpack(&sums, &mut out, first);
        for j in 0..lanes {
            log_sums.row(first + j)[0] = softmax.highest[j] + softmax.sums[j].log2();
        }
    }
}

/// The softmax of a panel as far as its keys have been seen: highest score, and sum of 2^(score - highest).
struct Softmax<T, const W: usize> {
    highest: [T; W],
    sums: [T; W],
}

impl<T: Elementary, const W: usize> Softmax<T, W> {
    fn new() -> Self {
        Self {
            highest: [T::from_f64(f64::NEG_INFINITY); W],
            sums: [T::default(); W],
        }
    }

    /// Turns the scores of the next keys into powers of two, and returns what earlier ones are to be multiplied by.
    #[inline(always)]
    fn next(&mut self, scores: &mut [[T; W]]) -> [T; W] {
        let mut highest = self.highest;
        for scores in &*scores {
            for (highest, &score) in highest.iter_mut().zip(scores) {
                *highest = if score > *highest { score } else { *highest };
            }
        }
        let mut rescale = self.highest;
        for (factor, &highest) in rescale.iter_mut().zip(&highest) {
            *factor = (*factor - highest).exp2();
        }
        let mut sums = self.sums;
        for (sum, &factor) in sums.iter_mut().zip(&rescale) {
            *sum *= factor;
        }
        for scores in scores {
            for ((score, &highest), sum) in scores.iter_mut().zip(&highest).zip(&mut sums) {
                *score = (*score - highest).exp2();
                *sum += *score;
            }
        }
        *self = Self { highest, sums };
        rescale
    }
}

fn backward_panels<T: Gemm + Elementary, const W: usize>(
    inputs: Inputs<'_, T>,
    y: Head<'_, T>,
    dy: Head<'_, T>,
    log_sums: Head<'_, T>,
    mut gradients: Gradients<'_, T>,
) {
    let Inputs { q, k, v, .. } = inputs;
    let (scale, one) = (inputs.scale(), T::from_f64(1.0));
    let panel = || vec![[T::default(); W]; q.size];
    let (mut queries, mut y_panel, mut dy_panel, mut dq) = (panel(), panel(), panel(), panel());
    let block = || vec![[T::default(); W]; KEYS.min(k.rows)];
    let (mut scores, mut slopes) = (block(), block());
    let mut dk = gradients.k.map(|to| QuerySum::new(to, W));
    let mut dv = gradients.v.map(|to| QuerySum::new(to, W));
    for first in (0..q.rows).step_by(W) {
        let lanes = W.min(q.rows - first);
        pack(q, first, lanes, inputs.scale_of_queries(), &mut queries);
        pack(dy, first, lanes, one, &mut dy_panel);
        dk.iter_mut().for_each(|dk| dk.pack(q, first, lanes, scale));
        dv.iter_mut().for_each(|dv| dv.pack(dy, first, lanes, one));
        pack(y, first, lanes, one, &mut y_panel);
        let (mut log_sum, mut along) = ([T::default(); W], [T::default(); W]);
        for (j, log_sum) in log_sum[..lanes].iter_mut().enumerate() {
            *log_sum = log_sums.row(first + j)[0];
        }
        vectorized(
            #[inline(always)]
            || {
                for (y, dy) in y_panel.iter().zip(&dy_panel) {
                    for ((along, &y), &dy) in along.iter_mut().zip(y).zip(dy) {
                        *along += y * dy;
                    }
                }
            },
        );
        let visible = inputs.visible(first + lanes - 1);
        for from in (0..visible).step_by(KEYS) {
            let count = KEYS.min(visible - from);
            let (scores, slopes) = (&mut scores[..count], &mut slopes[..count]);
            inputs.scores(&queries, from, first, scores);
            multiply(Left::rows(v, from), &dy_panel, slopes, false);
            vectorized(
                #[inline(always)]
                || {
                    for (scores, slopes) in scores.iter_mut().zip(slopes.iter_mut()) {
                        let lanes = scores.iter_mut().zip(slopes).zip(log_sum.iter().zip(&along));
                        for ((score, slope), (&log_sum, &along)) in lanes {
                            *score = (*score - log_sum).exp2();
                            *slope = *score * (*slope - along);
                        }
                    }
                },
            );
            dv.iter_mut().for_each(|dv| dv.add(from, scores));
            dk.iter_mut().for_each(|dk| dk.add(from, slopes));
            if gradients.q.is_some() {
                multiply(Left::columns(k, from), slopes, &mut dq, from > 0);
            }
        }
        if let Some(to) = &mut gradients.q {
            vectorized(
                #[inline(always)]
                || {
                    for x in dq.as_flattened_mut() {
                        *x *= scale;
                    }
                },
            );
            unpack(&dq, to, first);
        }
    }
    dk.into_iter().chain(dv).for_each(QuerySum::write);
}
