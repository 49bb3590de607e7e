//! A linear layer on the CPU.

use crate::device::cpu::gemm::{Pair, sum_of_products};
use crate::dispatch;
use crate::error::Result;
pub use crate::ops::matmul::cpu::matmul_transposed as weight_gradient;
use crate::ops::matmul::cpu::{columns, multiplied, rows, with_bias};
use crate::ops::matmul::{shaped, sizes};
use crate::tensor::{Tensor, buffer};

/// `x W^T + b`, rounded, and then `residual` added. `second` continues the sum: `[h, b]` for `h B^T`.
pub fn forward(
    x: &Tensor,
    weight: &Tensor,
    second: Option<[&Tensor; 2]>,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let y = dispatch!(x.dtype(), T => {
        let shape = shaped(x, sizes(weight)[0]);
        let values = [Some([x, weight]), second].map(|pair| pair.map(|pair| pair.map(|x| (x, x.reals::<T>()))));
        let pairs = values.iter().flatten();
        let pairs: Vec<_> = pairs.map(|pair| pair.each_ref().map(|(x, values)| rows(values, x))).collect();
        let pairs: Vec<Pair<'_, T>> = pairs.iter().map(|[a, b]| (a as _, b as _)).collect();
        let mut y = buffer::<T>(shape.iter().product());
        with_bias(bias, |output| sum_of_products(&pairs, output, &mut y));
        Tensor::from_reals(y, &shape, x.dtype())
    });
    residual.map_or(Ok(y.clone()), |residual| residual.sum(&y))
}

/// `dy W`, like x. `second` continues the sum: `[dh, a]` for `dh A`.
pub fn input_gradient(
    dy: &Tensor,
    weight: &Tensor,
    second: Option<[&Tensor; 2]>,
    onto: Option<Tensor>,
) -> Result<Tensor> {
    let dx = dispatch!(dy.dtype(), T => {
        let values = [Some([dy, weight]), second].map(|pair| pair.map(|pair| pair.map(|x| (x, x.reals::<T>()))));
        let pairs = values.iter().flatten();
        let pairs: Vec<_> = pairs.map(|[(a, x), (b, y)]| [rows(x, a), columns(y, b)]).collect();
        let pairs: Vec<Pair<'_, T>> = pairs.iter().map(|[a, b]| (a as _, b as _)).collect();
        Tensor::from_reals(multiplied(&pairs), &shaped(dy, sizes(weight)[1]), dy.dtype())
    });
    dx.added_onto(onto)
}
