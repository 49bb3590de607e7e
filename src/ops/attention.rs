//! Scaled dot-product attention over heads that lie side by side in the channels. Blocks of query rows see all keys at
//! once; only the log-sum-exp of each row is kept, and the backward pass recomputes the probabilities from it (Dao et
//! al. 2022, arXiv:2205.14135).

use rayon::prelude::*;

use super::elementwise::float;
use crate::autograd::Tape;
use crate::device::cpu::math::{Elementary, max, sum_of, sum_of_pairs, vectorized};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, buffer, recycle};

/// softmax(q k^T / sqrt(head size)) v for each head. `q` is `[n, tq, c]`, `k` and `v` are `[n, tk, c]`; head `i` is
/// channels `i*c/heads ..`. With `causal`, row `i` sees keys `0..=i`. Result `[n, tq, c]`.
pub fn attention(tape: &Tape, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    const OP: &str = "attention";
    float(OP, q)?;
    let [n, tq, c] = q.dims(OP)?;
    let [_, tk, _] = k.dims(OP)?;
    let fits = |x: &Tensor| x.shape() == [n, tk, c] && x.dtype() == q.dtype();
    if !fits(k) || !fits(v) || heads == 0 || c % heads != 0 || q.is_empty() || tk == 0 {
        return Err(Error::shape(OP, format!("{heads} heads over {q:?}, {k:?} and {v:?}")));
    }
    let d = c / heads;
    let sizes = Sizes {
        n,
        tq,
        tk,
        c,
        heads,
        d,
        causal,
    };
    dispatch!(q.dtype(), T => {
        let (out, log_sums) = sizes.forward::<T>(q, k, v);
        let wants = [tape.wants(q), tape.wants(k), tape.wants(v)];
        let (q_saved, k_saved, v_saved, y) = (q.clone(), k.clone(), v.clone(), out.clone());
        tape.record(OP, &[q, k, v], &out, move |dy| {
            Ok(sizes.backward::<T>([&q_saved, &k_saved, &v_saved], &y, dy, &log_sums, wants))
        });
        Ok(out)
    })
}

#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    tq: usize,
    tk: usize,
    c: usize,
    heads: usize,
    d: usize,
    causal: bool,
}

impl Sizes {
    /// Query rows of one task: enough tasks for many processors where there are few rows. Depends on nothing but sizes.
    fn block_rows(self) -> usize {
        (self.tq / 16).next_multiple_of(16).clamp(16, 64)
    }

    /// How many keys query row `i` sees.
    fn visible(self, i: usize) -> usize {
        if self.causal { self.tk.min(i + 1) } else { self.tk }
    }

    fn scale<T: Elementary>(self) -> T {
        T::from_f64(1.0 / (self.d as f64).sqrt())
    }

    /// Head `h` of `rows` rows from `row` on of one sample's `[t, c]`.
    fn head<'a, T>(self, sample: &'a [T], h: usize, row: usize, rows: usize) -> Matrix<'a, T> {
        Matrix::new(&sample[row * self.c + h * self.d..], rows, self.d, self.c, 1)
    }

    /// The result, and the log-sum-exp of each row's scaled scores `[n, tq, heads]`.
    fn forward<T: Elementary>(self, q: &Tensor, k: &Tensor, v: &Tensor) -> (Tensor, Vec<T>) {
        let Sizes {
            n, tq, tk, c, heads, d, ..
        } = self;
        let (qs, ks, vs) = (q.reals::<T>(), k.reals::<T>(), v.reals::<T>());
        let mut out = buffer::<T>(n * tq * c);
        let mut log_sums = vec![T::default(); n * tq * heads];
        let block = self.block_rows();
        let samples = out.par_chunks_mut(tq * c).zip(log_sums.par_chunks_mut(tq * heads));
        samples.enumerate().for_each(|(i, (out, log_sums))| {
            let q = &qs[i * tq * c..][..tq * c];
            let (k, v) = (&ks[i * tk * c..][..tk * c], &vs[i * tk * c..][..tk * c]);
            let blocks = out
                .par_chunks_mut(block * c)
                .zip(log_sums.par_chunks_mut(block * heads));
            blocks.enumerate().for_each(|(j, (out, log_sums))| {
                let (top, rows) = (j * block, out.len() / c);
                let keys = self.visible(top + rows - 1);
                let mut scores = buffer::<T>(rows * keys);
                for h in 0..heads {
                    multiply(
                        self.head(q, h, top, rows),
                        self.head(k, h, 0, keys).t(),
                        &mut scores,
                        keys,
                        false,
                    );
                    vectorized(
                        #[inline(always)]
                        || {
                            for (r, row) in scores.chunks_exact_mut(keys).enumerate() {
                                let (seen, hidden) = row.split_at_mut(self.visible(top + r));
                                hidden.fill(T::default());
                                log_sums[r * heads + h] = softmax(seen, self.scale());
                            }
                        },
                    );
                    multiply(
                        Matrix::new(&scores, rows, keys, keys, 1),
                        self.head(v, h, 0, keys),
                        &mut out[h * d..],
                        c,
                        false,
                    );
                }
                recycle(scores);
            });
        });
        (Tensor::from_reals(out, q.shape(), q.dtype()), log_sums)
    }

    /// Gradients of q, k and v where wanted. With P the probabilities and D = rowsum(y dy): dv = P^T dy,
    /// dS = P (dy v^T - D) scale, dq = dS k, dk = dS^T q.
    fn backward<T: Elementary>(
        self,
        inputs: [&Tensor; 3],
        y: &Tensor,
        dy: &Tensor,
        log_sums: &[T],
        wants: [bool; 3],
    ) -> Vec<Option<Tensor>> {
        let Sizes {
            n, tq, tk, c, heads, d, ..
        } = self;
        let [qs, ks, vs] = inputs.map(|x| x.reals::<T>());
        let (ys, dys) = (y.reals::<T>(), dy.reals::<T>());
        let length = |wanted: bool, t: usize| if wanted { n * t * c } else { 0 };
        let mut gradients = [
            buffer::<T>(length(wants[0], tq)),
            buffer::<T>(length(wants[1], tk)),
            buffer::<T>(length(wants[2], tk)),
        ];
        // One task a head, each with its own [t, d] of every gradient.
        let [dq, dk, dv] = &mut gradients;
        let tasks: Vec<_> = heads_of(dq, tq * d, n * heads)
            .zip(heads_of(dk, tk * d, n * heads))
            .zip(heads_of(dv, tk * d, n * heads))
            .collect();
        tasks.into_par_iter().enumerate().for_each(|(task, ((dq, dk), dv))| {
            let (i, h) = (task / heads, task % heads);
            let query = i * tq * c..(i + 1) * tq * c;
            let (q, y, dy) = (&qs[query.clone()], &ys[query.clone()], &dys[query]);
            let (k, v) = (&ks[i * tk * c..][..tk * c], &vs[i * tk * c..][..tk * c]);
            dk.fill(T::default());
            dv.fill(T::default());
            let block = self.block_rows();
            for top in (0..tq).step_by(block) {
                let rows = block.min(tq - top);
                let keys = self.visible(top + rows - 1);
                let mut scores = buffer::<T>(rows * keys);
                let (q_rows, dy_rows) = (self.head(q, h, top, rows), self.head(dy, h, top, rows));
                let (k_rows, v_rows) = (self.head(k, h, 0, keys), self.head(v, h, 0, keys));
                multiply(q_rows, k_rows.t(), &mut scores, keys, false);
                vectorized(
                    #[inline(always)]
                    || {
                        let scale = self.scale::<T>();
                        for (r, row) in scores.chunks_exact_mut(keys).enumerate() {
                            let log_sum = log_sums[(i * tq + top + r) * heads + h];
                            let (seen, hidden) = row.split_at_mut(self.visible(top + r));
                            hidden.fill(T::default());
                            for s in seen {
                                *s = (*s * scale - log_sum).exp();
                            }
                        }
                    },
                );
                if wants[2] {
                    multiply(Matrix::new(&scores, rows, keys, keys, 1).t(), dy_rows, dv, d, true);
                }
                if wants[0] || wants[1] {
                    let mut slopes = buffer::<T>(rows * keys);
                    multiply(dy_rows, v_rows.t(), &mut slopes, keys, false);
                    vectorized(
                        #[inline(always)]
                        || {
                            let scale = self.scale::<T>();
                            let pairs = slopes.chunks_exact_mut(keys).zip(scores.chunks_exact(keys));
                            for (r, (slopes, probabilities)) in pairs.enumerate() {
                                let at = (top + r) * c + h * d;
                                let along = sum_of_pairs(&y[at..][..d], &dy[at..][..d], |y, dy| y * dy);
                                for (s, &p) in slopes.iter_mut().zip(probabilities) {
                                    *s = p * (*s - along) * scale;
                                }
                            }
                        },
                    );
                    let slopes_matrix = Matrix::new(&slopes, rows, keys, keys, 1);
                    if wants[0] {
                        multiply(slopes_matrix, k_rows, &mut dq[top * d..], d, false);
                    }
                    if wants[1] {
                        multiply(slopes_matrix.t(), q_rows, dk, d, true);
                    }
                    recycle(slopes);
                }
                recycle(scores);
            }
        });
        let gradients = gradients.into_iter().zip(wants).zip([tq, tk, tk]);
        gradients
            .map(|((gradient, wanted), t)| wanted.then(|| self.side_by_side(gradient, t, inputs[0].dtype())))
            .collect()
    }

    /// `[n, heads, t, d]` -> `[n, t, c]`.
    fn side_by_side<T: Elementary>(self, heads_first: Vec<T>, t: usize, dtype: DType) -> Tensor {
        let Sizes { n, c, heads, d, .. } = self;
        let mut out = buffer::<T>(n * t * c);
        out.par_chunks_mut(c).enumerate().for_each(|(row, out)| {
            let (i, row) = (row / t, row % t);
            for (h, out) in out.chunks_exact_mut(d).enumerate() {
                out.copy_from_slice(&heads_first[((i * heads + h) * t + row) * d..][..d]);
            }
        });
        recycle(heads_first);
        Tensor::from_reals(out, &[n, t, c], dtype)
    }
}

/// `count` pieces of `size` elements, all empty where nothing was allocated.
fn heads_of<T>(data: &mut [T], size: usize, count: usize) -> impl Iterator<Item = &mut [T]> {
    let mut rest = data;
    (0..count).map(move |_| {
        let (piece, after) = std::mem::take(&mut rest).split_at_mut_checked(size).unwrap_or_default();
        rest = after;
        piece
    })
}

/// Turns scores into probabilities of the scaled scores and returns the log-sum-exp.
#[inline(always)]
fn softmax<T: Elementary>(row: &mut [T], scale: T) -> T {
    for s in row.iter_mut() {
        *s *= scale;
    }
    let top = max(row);
    for s in row.iter_mut() {
        *s = (*s - top).exp();
    }
    let sum = sum_of(
        row,
        #[inline(always)]
        |p| p,
    );
    let inverse = T::from_f64(1.0) / sum;
    for p in row.iter_mut() {
        *p *= inverse;
    }
    top + sum.ln()
}

/// A strided view of one head.
#[derive(Clone, Copy)]
struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    fn new(data: &'a [T], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        assert!(
            rows > 0 && columns > 0 && data.len() > (rows - 1) * row_stride + (columns - 1) * column_stride,
            "a head leaves its tensor"
        );
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride,
        }
    }

    fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// `c = a b`, or `c += a b`, on this thread; rows of `c` are `stride` apart.
fn multiply<T: Elementary>(a: Matrix<'_, T>, b: Matrix<'_, T>, c: &mut [T], stride: usize, add: bool) {
    assert_eq!(a.columns, b.rows, "a and b do not fit");
    assert!(
        c.len() >= (a.rows - 1) * stride + b.columns && b.columns <= stride,
        "c does not fit"
    );
    // SAFETY: `Matrix::new` and the assertion above keep every element inside its slice.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            c.as_mut_ptr(),
            1,
            stride as isize,
            add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::from_f64(1.0),
            T::from_f64(1.0),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
