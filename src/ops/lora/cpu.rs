//! The products of a LoRA on the CPU; those of its layer are `linear`'s.

use crate::device::cpu::gemm::{Gemm, Pair};
use crate::dispatch;
use crate::error::Result;
pub use crate::ops::linear::cpu::{forward, input_gradient, weight_gradient};
use crate::ops::matmul::cpu::{columns, multiplied, rows};
use crate::ops::matmul::{shaped, sizes};
use crate::tensor::Tensor;

/// `scale x A^T`, in the type of the arithmetic: the forward pass and the gradient of B both want it so.
pub fn hidden(x: &Tensor, a: &Tensor, scale: f64) -> Result<Tensor> {
    dispatch!(x.dtype(), T => {
        let (x_values, a_values) = (x.reals::<T>(), a.reals::<T>());
        let h = scaled(&[(&rows(&x_values, x), &rows(&a_values, a))], scale);
        Ok(Tensor::new::<T>(h, &shaped(x, sizes(a)[0])))
    })
}

/// `scale dy B`, in the type of the arithmetic.
pub fn hidden_gradient(dy: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    dispatch!(dy.dtype(), T => {
        let (dy_values, b_values) = (dy.reals::<T>(), b.reals::<T>());
        let dh = scaled(&[(&rows(&dy_values, dy), &columns(&b_values, b))], scale);
        Ok(Tensor::new::<T>(dh, &shaped(dy, sizes(b)[1])))
    })
}

/// `W + scale B A`, stored as the weight is.
pub fn merged(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    dispatch!(weight.dtype(), T => {
        let (a_values, b_values) = (a.reals::<T>(), b.reals::<T>());
        let mut sum = scaled(&[(&rows(&b_values, b), &columns(&a_values, a))], scale);
        sum.iter_mut().zip(weight.reals::<T>().iter()).for_each(|(s, &w)| *s += w);
        Ok(Tensor::from_reals::<T>(sum, weight.shape(), weight.dtype()))
    })
}

/// `dA = scale B^T dW` and `dB = scale dW A^T` where wanted.
pub fn projected(
    dw: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
    [wants_a, wants_b]: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    dispatch!(dw.dtype(), T => {
        let da = wants_a.then(|| {
            let mut values = b.reals::<T>().into_owned();
            multiply(&mut values, scale);
            weight_gradient(&Tensor::new(values, b.shape()), dw, a.dtype())
        });
        let db = wants_b.then(|| {
            let (dw_values, a_values) = (dw.reals::<T>(), a.reals::<T>());
            let db = scaled(&[(&rows(&dw_values, dw), &rows(&a_values, a))], scale);
            Tensor::from_reals::<T>(db, b.shape(), b.dtype().master_dtype())
        });
        Ok([da.transpose()?, db])
    })
}

fn scaled<T: Gemm>(pairs: &[Pair<'_, T>], scale: f64) -> Vec<T> {
    let mut product = multiplied(pairs);
    multiply(&mut product, scale);
    product
}

fn multiply<T: Gemm>(values: &mut [T], scale: f64) {
    if scale != 1.0 {
        let scale = T::from_f64(scale);
        values.iter_mut().for_each(|v| *v *= scale);
    }
}
