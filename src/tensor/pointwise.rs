//! Loops over the values of one tensor or two, and the sum that a tape makes of the gradients of one tensor.

use rayon::prelude::*;

use super::{Tensor, buffer, device_of};
use crate::device::Device;
use crate::device::cpu::math::{Elementary, vectorized};
use crate::device::gpu::pack;
use crate::device::gpu::table::kernels;
use crate::dispatch;
use crate::error::{Error, Result};

/// Elements that one task works on.
const CHUNK: usize = 1 << 13;

impl Tensor {
    /// `self + other`, same shape and dtype. Records nothing.
    ///
    /// # Errors
    /// [`Error::Shape`] where shapes, dtypes or devices differ; what a GPU says.
    pub fn sum(&self, other: &Self) -> Result<Self> {
        const OP: &str = "add";
        same(OP, self, other)?;
        match device_of(OP, &[self, other])? {
            Device::Cpu => Ok(dispatch!(self.dtype(), T => zip::<T>(self, other, #[inline(always)] |x, y| x + y))),
            Device::Gpu(_) => {
                const THREADS: usize = kernels::ELEMENTWISE_THREADS;
                let sum = self.empty_like()?;
                let blocks = self.len().div_ceil(pack(self.dtype())).div_ceil(THREADS);
                let launch = self.kernel(&kernels::ADD_FORWARD)?.grid([blocks, 1, 1]).block(THREADS);
                launch.output(&sum).input(self).input(other).long(self.len()).launch()?;
                Ok(sum)
            }
        }
    }

    /// `onto` plus this, where there is an `onto`.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn added_onto(self, onto: Option<Self>) -> Result<Self> {
        match onto {
            Some(onto) => onto.accumulate(self),
            None => Ok(self),
        }
    }

    /// [`Tensor::sum`], on the CPU in place where nobody else holds one of the two: how gradients of one tensor add up.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn accumulate(self, other: Self) -> Result<Self> {
        same("add", &self, &other)?;
        if device_of("add", &[&self, &other])? != Device::Cpu {
            return self.sum(&other);
        }
        let (shape, dtype) = (self.shape().to_vec(), self.dtype());
        dispatch!(dtype, T => {
            let (mut sum, other) = match (self.try_into_vec::<T>(), other) {
                (Ok(a), b) => (a, b),
                (Err(a), b) => match b.try_into_vec::<T>() {
                    Ok(b) => (b, a),
                    Err(b) => return a.sum(&b),
                },
            };
            let values = other.reals::<T>();
            sum.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(sum, values)| {
                vectorized(
                    #[inline(always)]
                    || {
                        for (sum, &value) in sum.iter_mut().zip(values) {
                            *sum += value;
                        }
                    },
                );
            });
            Ok(Tensor::from_reals(sum, &shape, dtype))
        })
    }
}

/// `f` of every value, in the dtype of `x`. (Loops, not `for_each`: its closure would be a function of its own, outside
/// the instruction set that [`vectorized`] chose.)
pub(crate) fn map<T: Elementary>(x: &Tensor, f: impl Fn(T) -> T + Sync) -> Tensor {
    let xs = x.reals::<T>();
    let mut out = buffer::<T>(xs.len());
    out.par_chunks_mut(CHUNK).zip(xs.par_chunks(CHUNK)).for_each(|(out, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (y, &x) in out.iter_mut().zip(x) {
                    *y = f(x);
                }
            },
        );
    });
    Tensor::from_reals(out, x.shape(), x.dtype())
}

/// `f` of every pair of values, in the dtype of `x`.
pub(crate) fn zip<T: Elementary>(x: &Tensor, y: &Tensor, f: impl Fn(T, T) -> T + Sync) -> Tensor {
    let (xs, ys) = (x.reals::<T>(), y.reals::<T>());
    let mut out = buffer::<T>(xs.len());
    out.par_chunks_mut(CHUNK).zip(xs.par_chunks(CHUNK)).zip(ys.par_chunks(CHUNK)).for_each(|((out, x), y)| {
        vectorized(
            #[inline(always)]
            || {
                for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
                    *o = f(x, y);
                }
            },
        );
    });
    Tensor::from_reals(out, x.shape(), x.dtype())
}

/// Refuses tensors of integers.
pub(crate) fn float(op: &'static str, x: &Tensor) -> Result<()> {
    if x.dtype().is_float() { Ok(()) } else { Err(Error::shape(op, format!("expected floats, got {x:?}"))) }
}

/// Refuses tensors of different shapes or dtypes, and integers.
pub(crate) fn same(op: &'static str, x: &Tensor, y: &Tensor) -> Result<()> {
    float(op, x)?;
    if x.shape() != y.shape() || x.dtype() != y.dtype() {
        return Err(Error::shape(op, format!("{x:?} and {y:?} differ in shape or dtype")));
    }
    Ok(())
}
