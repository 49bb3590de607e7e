//! Products on the CPU, by `device::cpu::gemm`.

use super::{shaped, sizes};
use crate::device::cpu::gemm::{Gemm, Matrix, Output, Pair, product, product_transposed, sum_of_products};
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{DType, Tensor, buffer};

pub fn matmul(a: &Tensor, b: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    dispatch!(a.dtype(), T => {
        let (a_values, b_values) = (a.reals::<T>(), b.reals::<T>());
        let pair: Pair<'_, T> = (&rows(&a_values, a), &columns(&b_values, b));
        let sums = match residual {
            None => multiplied(&[pair]),
            Some(residual) => {
                let mut sums = residual.reals::<T>().into_owned();
                product(pair.0, pair.1, Output::Add, &mut sums);
                sums
            }
        };
        Ok(Tensor::from_reals(sums, &shaped(a, sizes(b)[1]), a.dtype()))
    })
}

/// The rows of `x` `[rows, c]`, whose values these are, as lines: the left side of `x y`, or the right one of `y x^T`.
pub fn rows<'a, T>(values: &'a [T], x: &Tensor) -> Matrix<'a, T> {
    let [rows, c] = sizes(x);
    Matrix::row_major(values, rows, c)
}

/// The columns of `x` `[rows, c]`, whose values these are, as lines: the right side of `y x`, or the left one of `x^T y`.
pub fn columns<'a, T>(values: &'a [T], x: &Tensor) -> Matrix<'a, T> {
    let [rows, c] = sizes(x);
    Matrix::transposed(values, rows, c)
}

/// The sum of the products of `pairs`, of which there is one at least.
pub fn multiplied<T: Gemm>(pairs: &[Pair<'_, T>]) -> Vec<T> {
    let (a, b) = pairs[0];
    let mut c = buffer(a.lines() * b.lines());
    sum_of_products(pairs, Output::Set, &mut c);
    c
}

/// Calls `f` with what a bias means for the output.
pub fn with_bias<T: Gemm>(bias: Option<&Tensor>, f: impl FnOnce(Output<'_, T>)) {
    let bias = bias.map(|b| b.reals::<T>());
    f(bias.as_ref().map_or(Output::Set, |b| Output::Bias(b)));
}

/// `a^T b` `[m, n]` of `a` `[.., m]` and `b` `[.., n]`, in the dtype of the gradient of a parameter stored as `stored`:
/// the gradient of a weight.
pub fn matmul_transposed(a: &Tensor, b: &Tensor, stored: DType) -> Result<Tensor> {
    dispatch!(b.dtype(), T => {
        let (m, n) = (sizes(a)[1], sizes(b)[1]);
        let (a_values, b_values) = (a.reals::<T>(), b.reals::<T>());
        let (a, b) = (columns(&a_values, a), columns(&b_values, b));
        let mut c = buffer::<T>(m * n);
        // A rank would not fill a vector.
        if n < m {
            product_transposed(&b, &a, Output::Set, &mut c);
        } else {
            product(&a, &b, Output::Set, &mut c);
        }
        Ok(Tensor::from_reals(c, &[m, n], stored.master_dtype()))
    })
}
