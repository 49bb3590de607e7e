//! GELU-gated linear units (Shazeer 2020, arXiv:2002.05202).

use rayon::prelude::*;

use super::elementwise::float;
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::cpu::math::{Elementary, vectorized};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, buffer};

/// Elements that one task works on.
const CHUNK: usize = 1 << 13;

/// `x` `[.., 2c]` -> `[.., c]`: first half times gelu of the second half.
pub fn geglu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    float("geglu", x)?;
    let (_, width) = x.rows("geglu")?;
    if width % 2 != 0 {
        return Err(Error::shape("geglu", format!("the last dimension of {x:?} is odd")));
    }
    let c = width / 2;
    if on_gpu::holds("geglu", &[x])? {
        return on_gpu::geglu(tape, x, &halved(x, c), c);
    }
    let out = dispatch!(x.dtype(), T => geglu_forward::<T>(x, c));
    let saved = x.clone();
    tape.record("geglu", &[x], &out, move |dy| {
        let x = &saved;
        Ok(vec![Some(dispatch!(x.dtype(), T => geglu_backward::<T>(x, dy, c)))])
    });
    Ok(out)
}

fn geglu_forward<T: Elementary>(x: &Tensor, c: usize) -> Tensor {
    let xs = x.reals::<T>();
    let mut out = buffer::<T>(xs.len() / 2);
    let rows = (CHUNK / c.max(1)).max(1);
    out.par_chunks_mut((rows * c).max(1))
        .zip(xs.par_chunks((rows * 2 * c).max(1)))
        .for_each(|(out, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(2 * c)) {
                        let (value, gate) = x.split_at(c);
                        for ((y, &v), &g) in out.iter_mut().zip(value).zip(gate) {
                            *y = v * g.gelu();
                        }
                    }
                },
            );
        });
    Tensor::from_reals(out, &halved(x, c), x.dtype())
}

fn halved(x: &Tensor, c: usize) -> Vec<usize> {
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = c;
    }
    shape
}

fn geglu_backward<T: Elementary>(x: &Tensor, dy: &Tensor, c: usize) -> Tensor {
    let (xs, dys) = (x.reals::<T>(), dy.reals::<T>());
    let mut dx = buffer::<T>(xs.len());
    let rows = (CHUNK / c.max(1)).max(1);
    dx.par_chunks_mut((rows * 2 * c).max(1))
        .zip(xs.par_chunks((rows * 2 * c).max(1)))
        .zip(dys.par_chunks((rows * c).max(1)))
        .for_each(|((dx, x), dy)| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(2 * c).zip(x.chunks_exact(2 * c));
                    for ((dx, x), dy) in rows.zip(dy.chunks_exact(c)) {
                        let (value, gate) = x.split_at(c);
                        let (d_value, d_gate) = dx.split_at_mut(c);
                        for i in 0..c {
                            let (gelu, slope) = gate[i].gelu_and_slope();
                            d_value[i] = dy[i] * gelu;
                            d_gate[i] = dy[i] * value[i] * slope;
                        }
                    }
                },
            );
        });
    Tensor::from_reals(dx, x.shape(), x.dtype())
}
