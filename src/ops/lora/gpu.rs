//! The products of a LoRA on a GPU; those of its layer are `linear`'s.

use crate::autograd::{Kind, Tape, Tensors};
use crate::error::Result;
use crate::ops::elementwise;
pub use crate::ops::linear::gpu::{forward, weight_gradient};
use crate::ops::matmul::gpu::{Epilogue, Layout, Pair, matmul_transposed, products};
use crate::ops::matmul::gpu_group::{MOST_TRANSPOSED, products_of_each, transposed_of_each};
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

/// The gradients of A and B of a LoRA beside its layer, each of which is too small to fill a GPU. They are made of x, dy, and, for
/// A, of dh or else of b, of which dh is made; for B of h.
pub static FACTORS: Kind = Kind { most: MOST_TRANSPOSED / 2, make: factors };

fn factors(layers: &[Tensors], scale: f64) -> Result<Vec<Tensors>> {
    // One input of all layers; none where it is missing, which it is in all or in none.
    let all =
        |i: usize| layers.iter().map(|from| from[i].as_ref()).collect::<Option<Vec<&Tensor>>>().unwrap_or_default();
    let [x, dy, dh, b, h] = [0, 1, 2, 3, 4].map(all);
    let pair = |(a, b)| [a, b];
    let made = match b.is_empty() {
        true => Vec::new(),
        false => products_of_each(&dy.iter().copied().zip(b).map(pair).collect::<Vec<Pair<'_>>>(), scale)?,
    };
    let dh = if made.is_empty() { dh } else { made.iter().collect() };
    let of_a: Vec<Pair<'_>> = dh.into_iter().zip(x).map(pair).collect();
    let of_b: Vec<Pair<'_>> = dy.into_iter().zip(h).map(pair).collect();
    let (mut gradients, wants_a) = (transposed_of_each([&of_a, &of_b])?.into_iter(), !of_a.is_empty());
    let of_a: Vec<_> = gradients.by_ref().take(of_a.len()).collect();
    let of_b: Vec<_> = gradients.collect();
    let wants_b = !of_b.is_empty();
    let one = |i: usize| vec![wants_a.then(|| of_a[i].clone()), wants_b.then(|| of_b[i].clone())];
    Ok((0..layers.len()).map(one).collect())
}

fn scaled(scale: f64) -> Epilogue<'static> {
    Epilogue { alpha: scale, ..Epilogue::default() }
}
