//! Scaled dot-product attention over heads that lie side by side in the channels. Only the log-sum-exp of each query's
//! scores is kept, and the backward pass recomputes the probabilities from it (Dao et al. 2022, arXiv:2205.14135).

use std::array::from_fn;

use rayon::prelude::*;

use super::elementwise::float;
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::cpu::attention::{Gradients, Inputs, backward, forward};
use crate::device::cpu::gemm::Gemm;
use crate::device::cpu::heads::{Head, HeadMut};
use crate::device::cpu::math::Elementary;
use crate::device::gpu::attention::Attention as Launch;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, buffer, recycle};

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
    if on_gpu::holds(OP, &[q, k, v])? {
        let size = c / heads;
        let sizes = Launch { n, tq, tk, heads, size, causal };
        return on_gpu::attention(tape, [q, k, v], sizes);
    }
    let sizes = Sizes { tq, tk, heads, size: c / heads, causal };
    dispatch!(q.dtype(), T => {
        let (out, log_sums) = sizes.forward::<T>([q, k, v]);
        let (q_saved, k_saved, v_saved, y) = (q.clone(), k.clone(), v.clone(), out.clone());
        tape.record(OP, [q, k, v], &out, move |dy, wants| {
            Ok(sizes.backward::<T>([&q_saved, &k_saved, &v_saved], &y, dy, log_sums, wants))
        });
        Ok(out)
    })
}

/// Queries of one task. With the keys of a head in the cache, more of them make little difference.
const QUERIES: usize = 256;

#[derive(Clone, Copy)]
struct Sizes {
    tq: usize,
    tk: usize,
    heads: usize,
    size: usize,
    causal: bool,
}

impl Sizes {
    fn queries<T>(self, data: &[T], head: usize) -> Head<'_, T> {
        Head::new(data, head, self.tq, self.heads, self.size)
    }

    fn keys<T>(self, data: &[T], head: usize) -> Head<'_, T> {
        Head::new(data, head, self.tk, self.heads, self.size)
    }

    /// The result, and the log-sum-exp of each query's scores `[n, heads, tq]`.
    fn forward<T: Gemm + Elementary>(self, inputs: [&Tensor; 3]) -> (Tensor, Vec<T>) {
        let Self { tq, heads, size, causal, .. } = self;
        let [q, k, v] = inputs.map(|x| x.reals::<T>());
        let mut out = buffer::<T>(q.len());
        let mut log_sums = buffer::<T>(q.len() / size);
        let tasks: Vec<_> = HeadMut::split(&mut out, tq, heads, size, QUERIES)
            .into_iter()
            .zip(HeadMut::split(&mut log_sums, tq, 1, 1, QUERIES))
            .collect();
        let blocks = tq.div_ceil(QUERIES);
        tasks.into_par_iter().enumerate().for_each(|(task, (out, log_sums))| {
            let head = task / blocks;
            let inputs = Inputs { q: self.queries(&q, head), k: self.keys(&k, head), v: self.keys(&v, head), causal };
            forward(inputs, task % blocks * QUERIES, out, log_sums);
        });
        let q = inputs[0];
        (Tensor::from_reals(out, q.shape(), q.dtype()), log_sums)
    }

    /// Gradients of q, k and v where wanted; a task is a head.
    fn backward<T: Gemm + Elementary>(
        self,
        inputs: [&Tensor; 3],
        y: &Tensor,
        dy: &Tensor,
        log_sums: Vec<T>,
        wants: [bool; 3],
    ) -> [Option<Tensor>; 3] {
        let Self { tq, tk, heads, size, causal } = self;
        let mut gradients: [Option<Vec<T>>; 3] = from_fn(|i| wants[i].then(|| buffer(inputs[i].len())));
        let [q, k, v] = inputs.map(|x| x.reals::<T>());
        let (y, dy) = (y.reals::<T>(), dy.reals::<T>());
        let mut parts = gradients.iter_mut().zip([tq, tk, tk]).map(|(gradient, t)| match gradient {
            Some(gradient) => HeadMut::split(gradient, t, heads, size, t).into_iter().map(Some).collect(),
            None => Vec::new(),
        });
        let mut next = || parts.next().expect("there are three").into_iter();
        let (mut dq, mut dk, mut dv) = (next(), next(), next());
        let tasks: Vec<_> = (0..q.len() / (tq * size))
            .map(|_| Gradients { q: dq.next().flatten(), k: dk.next().flatten(), v: dv.next().flatten() })
            .collect();
        tasks.into_par_iter().enumerate().for_each(|(head, gradients)| {
            let inputs = Inputs { q: self.queries(&q, head), k: self.keys(&k, head), v: self.keys(&v, head), causal };
            let log_sums = Head::new(&log_sums, head, tq, 1, 1);
            backward(inputs, self.queries(&y, head), self.queries(&dy, head), log_sums, gradients);
        });
        recycle(log_sums);
        from_fn(|i| Some(Tensor::from_reals(gradients[i].take()?, inputs[i].shape(), inputs[i].dtype())))
    }
}
