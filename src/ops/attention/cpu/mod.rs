//! Attention on the CPU: a task is some queries of a head, or in the backward pass a head.

mod head;
mod heads;
mod products;

use std::array::from_fn;

use rayon::prelude::*;

use super::Shape;
use crate::device::cpu::gemm::Gemm;
use crate::device::cpu::math::Elementary;
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Tensor, buffer};
use head::{Gradients, Inputs};
use heads::{Head, HeadMut};

/// Queries of one task. With the keys of a head in the cache, more of them make little difference.
const QUERIES: usize = 256;

/// The result; and for the backward pass the result again, and the log-sum-exp of each query's scores, `[n, heads, tq]` in
/// the type of the arithmetic.
pub fn forward(shape: &Shape, inputs: [&Tensor; 3]) -> Result<(Tensor, Vec<Tensor>)> {
    let (y, log_sums) = dispatch!(inputs[0].dtype(), T => shape.forward::<T>(inputs));
    Ok((y.clone(), vec![y, log_sums]))
}

/// The gradients of q, k and v where wanted.
pub fn backward(
    shape: &Shape,
    inputs: [&Tensor; 3],
    saved: &[Tensor],
    dy: &Tensor,
    wants: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let [y, log_sums] = saved else { unreachable!("saved by the forward pass") };
    dispatch!(dy.dtype(), T => Ok(shape.backward::<T>(inputs, y, dy, log_sums, wants)))
}

impl Shape {
    fn query_head<T>(self, data: &[T], head: usize) -> Head<'_, T> {
        Head::new(data, head, self.tq, self.heads, self.size)
    }

    fn key_head<T>(self, data: &[T], head: usize) -> Head<'_, T> {
        Head::new(data, head, self.tk, self.heads, self.size)
    }

    /// The result, and the log-sum-exp of each query's scores `[n, heads, tq]`.
    fn forward<T: Gemm + Elementary>(self, inputs: [&Tensor; 3]) -> (Tensor, Tensor) {
        let Self { n, tq, heads, size, causal, .. } = self;
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
            let inputs =
                Inputs { q: self.query_head(&q, head), k: self.key_head(&k, head), v: self.key_head(&v, head), causal };
            head::forward(inputs, task % blocks * QUERIES, out, log_sums);
        });
        let q = inputs[0];
        (Tensor::from_reals(out, q.shape(), q.dtype()), Tensor::new(log_sums, &[n, heads, tq]))
    }

    /// Gradients of q, k and v where wanted; a task is a head.
    fn backward<T: Gemm + Elementary>(
        self,
        inputs: [&Tensor; 3],
        y: &Tensor,
        dy: &Tensor,
        log_sums: &Tensor,
        wants: [bool; 3],
    ) -> [Option<Tensor>; 3] {
        let Self { tq, tk, heads, size, causal, .. } = self;
        let mut gradients: [Option<Vec<T>>; 3] = from_fn(|i| wants[i].then(|| buffer(inputs[i].len())));
        let [q, k, v] = inputs.map(|x| x.reals::<T>());
        let (y, dy, log_sums) = (y.reals::<T>(), dy.reals::<T>(), log_sums.reals::<T>());
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
            let inputs =
                Inputs { q: self.query_head(&q, head), k: self.key_head(&k, head), v: self.key_head(&v, head), causal };
            let log_sums = Head::new(&log_sums, head, tq, 1, 1);
            head::backward(inputs, self.query_head(&y, head), self.query_head(&dy, head), log_sums, gradients);
        });
        from_fn(|i| Some(Tensor::from_reals(gradients[i].take()?, inputs[i].shape(), inputs[i].dtype())))
    }
}
