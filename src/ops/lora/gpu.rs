//! The products of a LoRA on a GPU; those of its layer are `linear`'s.

use crate::autograd::Tape;
use crate::error::Result;
use crate::ops::elementwise;
pub use crate::ops::linear::gpu::{forward, input_gradient, weight_gradient};
use crate::ops::matmul::gpu::{Epilogue, Layout, matmul_transposed, products};
use crate::tensor::{DType, Tensor};

/// `scale x A^T`, in the storage type: the forward pass and the gradient of B both want it so.
pub fn hidden(x: &Tensor, a: &Tensor, scale: f64) -> Result<Tensor> {
    products(Layout::Transposed, [x, a], None, scaled(scale))
}

/// `scale dy B`, in the storage type.
pub fn hidden_gradient(dy: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    products(Layout::Plain, [dy, b], None, scaled(scale))
}

/// `W + scale B A`.
pub fn merged(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    products(Layout::Plain, [b, a], None, Epilogue { residual: Some(weight), ..scaled(scale) })
}

/// `dA = scale B^T dW` and `dB = scale dW A^T` of the f32 gradient dW where wanted, in f32.
pub fn projected(
    dw: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
    [wants_a, wants_b]: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let (mut da, mut db) = (None, None);
    if wants_a {
        let b = elementwise::scale(&Tape::off(), &elementwise::cast(b, DType::F32)?, scale)?;
        da = Some(matmul_transposed(&b, dw, DType::F32)?);
    }
    if wants_b {
        let a = elementwise::cast(a, DType::F32)?;
        db = Some(products(Layout::Transposed, [dw, &a], None, scaled(scale))?);
    }
    Ok([da, db])
}

fn scaled(scale: f64) -> Epilogue<'static> {
    Epilogue { alpha: scale, ..Epilogue::default() }
}
