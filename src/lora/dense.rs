//! Dense products of factors in f64: what merging and baking compute with.

use faer::Mat;

use super::expert::LoraFactors;
use crate::tensor::{DType, Tensor};

/// The flattened `up` `[out, r]`.
pub fn up(factors: &LoraFactors) -> Mat<f64> {
    matrix(&factors.b, factors.outputs(), factors.rank())
}

/// The flattened `down` `[r, in * kh * kw]`.
pub fn down(factors: &LoraFactors) -> Mat<f64> {
    matrix(&factors.a, factors.rank(), factors.inputs())
}

fn matrix(tensor: &Tensor, rows: usize, columns: usize) -> Mat<f64> {
    let values = tensor.reals::<f64>();
    Mat::from_fn(rows, columns, |i, j| values[i * columns + j])
}

/// The weighted sum of products `up @ down`; the weights are used as they are, whatever alpha says.
///
/// # Panics
/// If `terms` is empty or the shapes differ.
pub fn product(terms: &[(f64, &LoraFactors)]) -> Mat<f64> {
    let mut sum = Mat::zeros(terms[0].1.outputs(), terms[0].1.inputs());
    for &(weight, factors) in terms {
        sum += faer::Scale(weight) * (up(factors) * down(factors));
    }
    sum
}

/// An f32 tensor of `shape` with the matrix's values in row-major order.
pub fn to_tensor(matrix: &Mat<f64>, shape: &[usize]) -> Tensor {
    Tensor::from_reals(rows(matrix), shape, DType::F32)
}

/// The values in row-major order.
pub fn rows(matrix: &Mat<f64>) -> Vec<f64> {
    let (m, n) = (matrix.nrows(), matrix.ncols());
    (0..m * n).map(|at| matrix[(at / n, at % n)]).collect()
}

/// The 2-norm of all entries.
pub fn norm(matrix: &Mat<f64>) -> f64 {
    matrix.norm_l2()
}

/// Folds the middle factor of a Tucker convolution into `down`: `[r, i, 1, 1]` and `[s, r, kh, kw]` give
/// `[s, i, kh, kw]`. None where the shapes do not fit.
pub fn contract_mid(down: &Tensor, mid: &Tensor) -> Option<Tensor> {
    let ([r, i, 1, 1] | [r, i], &[s, r2, kh, kw]) = (down.shape(), mid.shape()) else {
        return None;
    };
    let (r, i) = (*r, *i);
    if r != r2 {
        return None;
    }
    let (d, m) = (down.reals::<f64>(), mid.reals::<f64>());
    let mut out = vec![0.0f64; s * i * kh * kw];
    for (at, value) in out.iter_mut().enumerate() {
        let (k, rest) = (at % (kh * kw), at / (kh * kw));
        let (column, row) = (rest % i, rest / i);
        *value = (0..r).map(|j| m[(row * r + j) * kh * kw + k] * d[j * i + column]).sum();
    }
    Some(Tensor::from_reals(out, &[s, i, kh, kw], DType::F32))
}
