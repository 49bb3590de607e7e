//! Softmax attention of one head, a panel of queries at a time (the online softmax of Milakov and Gimelshein 2018,
//! arXiv:1805.02867; tiled as in Dao et al. 2022, arXiv:2205.14135).
//!
//! The lanes of a vector are queries: scores are `[keys, panel]`, and the softmax runs down the keys. So nothing is
//! added across lanes, every sum has the order of the keys whatever the width of the vectors, and head sizes that fill no
//! vector waste none. (In the backward pass queries and keys change places.) Scores count in powers of two: the scale of
//! the queries holds log2 e.

use super::heads::{Head, HeadMut};
use super::products::{KeySum, Left, multiply, pack, unpack};
use crate::device::cpu::gemm::{Gemm, VECTORS};
use crate::device::cpu::math::{Elementary, vectorized};

/// Keys, or queries in the backward pass, whose scores with a panel are in the first cache at a time.
const BLOCK: usize = 128;

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
        if self.causal { self.k.rows.min(i + 1) } else { self.k.rows }
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
    let mut scores = vec![[T::default(); W]; BLOCK.min(k.rows)];
    for first in (0..out.rows).step_by(W) {
        let lanes = W.min(out.rows - first);
        pack(q, top + first, lanes, inputs.scale_of_queries(), &mut queries);
        let mut softmax = Softmax::<T, W>::new();
        let visible = inputs.visible(top + first + lanes - 1);
        for from in (0..visible).step_by(BLOCK) {
            let scores = &mut scores[..BLOCK.min(visible - from)];
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
        Self { highest: [T::from_f64(f64::NEG_INFINITY); W], sums: [T::default(); W] }
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

/// Here the lanes are keys, and sums over queries run down a panel; only those of dq have channels in lanes, which a
/// small head does not fill.
fn backward_panels<T: Gemm + Elementary, const W: usize>(
    inputs: Inputs<'_, T>,
    y: Head<'_, T>,
    dy: Head<'_, T>,
    log_sums: Head<'_, T>,
    gradients: Gradients<'_, T>,
) {
    let Inputs { q, k, v, causal } = inputs;
    let (scale, one) = (inputs.scale(), T::from_f64(1.0));
    let Gradients { q: to_q, k: mut to_k, v: mut to_v } = gradients;
    // The log-sum-exp and D of each query.
    let queries: Vec<(T, T)> = (0..q.rows)
        .map(|i| {
            let products = y.row(i).iter().zip(dy.row(i)).map(|(&y, &dy)| y * dy);
            (log_sums.row(i)[0], products.fold(T::default(), |sum, product| sum + product))
        })
        .collect();
    let panel = || vec![[T::default(); W]; q.size];
    let (mut keys, mut values, mut dk, mut dv) = (panel(), panel(), panel(), panel());
    let block = || vec![[T::default(); W]; BLOCK.min(q.rows)];
    let (mut scores, mut slopes) = (block(), block());
    let mut dq = to_q.map(|to| KeySum::new(to, W));
    for first in (0..k.rows).step_by(W) {
        let lanes = W.min(k.rows - first);
        pack(k, first, lanes, inputs.scale_of_queries(), &mut keys);
        pack(v, first, lanes, one, &mut values);
        dq.iter_mut().for_each(|dq| dq.pack(k, first, lanes, scale));
        dk.as_flattened_mut().fill(T::default());
        dv.as_flattened_mut().fill(T::default());
        // Queries before that see none of these keys.
        let seeing = if causal { first.min(q.rows) } else { 0 };
        for from in (seeing..q.rows).step_by(BLOCK) {
            let count = BLOCK.min(q.rows - from);
            let (scores, slopes) = (&mut scores[..count], &mut slopes[..count]);
            multiply(Left::rows(q, from), &keys, scores, false);
            if causal {
                for (query, scores) in (from..).zip(&mut *scores) {
                    scores[W.min(query + 1 - first)..].fill(T::from_f64(f64::NEG_INFINITY));
                }
            }
            multiply(Left::rows(dy, from), &values, slopes, false);
            vectorized(
                #[inline(always)]
                || {
                    let rows = scores.iter_mut().zip(slopes.iter_mut()).zip(&queries[from..]);
                    for ((scores, slopes), &(log_sum, along)) in rows {
                        for (score, slope) in scores.iter_mut().zip(slopes) {
                            *score = (*score - log_sum).exp2();
                            *slope = *score * (*slope - along);
                        }
                    }
                },
            );
            if to_v.is_some() {
                multiply(Left::columns(dy, from), scores, &mut dv, true);
            }
            if to_k.is_some() {
                multiply(Left::columns(q, from), slopes, &mut dk, true);
            }
            dq.iter_mut().for_each(|dq| dq.add(from, slopes));
        }
        if let Some(to) = &mut to_v {
            unpack(&dv, to, first);
        }
        if let Some(to) = &mut to_k {
            vectorized(
                #[inline(always)]
                || {
                    for x in dk.as_flattened_mut() {
                        *x *= scale;
                    }
                },
            );
            unpack(&dk, to, first);
        }
    }
    if let Some(dq) = dq {
        dq.write();
    }
}
