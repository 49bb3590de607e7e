//! Products of matrices: an op of their own, and what linear layers, LoRA and attention are made of.

pub(super) mod cpu;
pub(super) mod gpu;
pub(super) mod gpu_group;
pub(super) mod hopper;

use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float};

const OP: &str = "matmul";

/// `a b + residual`: `a` `[m, k]`, `b` `[k, n]`, `residual` `[m, n]` -> `[m, n]`, all of one dtype, summed in its
/// accumulator and rounded once. Records nothing: layers have ops of their own.
///
/// # Errors
/// [`Error::Shape`] where shapes or dtypes do not fit or the tensors are on several devices; what a GPU says.
pub fn matmul(a: &Tensor, b: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    float(OP, a)?;
    let ([m, k], [depth, n]) = (a.dims(OP)?, b.dims(OP)?);
    let alike = |x: &Tensor| x.dtype() == a.dtype();
    if k != depth || !alike(b) || residual.is_some_and(|r| r.shape() != [m, n] || !alike(r)) {
        let plus = residual.map_or(String::new(), |r| format!(" plus {r:?}"));
        return Err(Error::shape(OP, format!("{a:?} times {b:?}{plus}: expected [m, k], [k, n] and [m, n]")));
    }
    let inputs: Vec<&Tensor> = [a, b].into_iter().chain(residual).collect();
    on!(device_of(OP, &inputs)?, matmul(a, b, residual))
}

/// The shape of `x` with another last dimension.
pub(super) fn shaped(x: &Tensor, last: usize) -> Vec<usize> {
    let (_, rows) = x.shape().split_last().expect("checked to have a dimension");
    rows.iter().copied().chain([last]).collect()
}

/// `x` `[.., c]` as `[rows, c]`.
pub(super) fn sizes(x: &Tensor) -> [usize; 2] {
    let (c, rows) = x.shape().split_last().expect("checked to have a dimension");
    [rows.iter().product(), *c]
}
