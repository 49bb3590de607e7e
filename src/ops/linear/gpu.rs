//! A linear layer on a GPU.

use crate::error::Result;
pub use crate::ops::matmul::gpu::matmul_transposed as weight_gradient;
use crate::ops::matmul::gpu::{Epilogue, Layout, products};
use crate::tensor::Tensor;

/// `x W^T + b + residual`, rounded once. `second` continues the sum: `[h, b]` for `h B^T`.
pub fn forward(
    x: &Tensor,
    weight: &Tensor,
    second: Option<[&Tensor; 2]>,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    products(Layout::Transposed, [x, weight], second, Epilogue { bias, residual, ..Epilogue::default() })
}

/// `dy W + onto`, like x, rounded once. `second` continues the sum: `[dh, a]` for `dh A`.
pub fn input_gradient(
    dy: &Tensor,
    weight: &Tensor,
    second: Option<[&Tensor; 2]>,
    onto: Option<Tensor>,
) -> Result<Tensor> {
    products(Layout::Plain, [dy, weight], second, Epilogue { residual: onto.as_ref(), ..Epilogue::default() })
}
