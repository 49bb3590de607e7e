//! How different the images of one prompt, or of a whole set, are from each other.

use faer::{Mat, Side};

use super::Features;
use super::features::dot;
use crate::error::{Error, Result};

/// Mean of `1 - cos` over all pairs; `None` for fewer than two images, which have no diversity.
pub fn pairwise_cosine_distance(embeddings: &Features) -> Option<f64> {
    let unit = embeddings.normalized();
    let n = unit.len();
    let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
    let sum: f64 = pairs.map(|(i, j)| 1.0 - dot(unit.row(i), unit.row(j))).sum();
    (n >= 2).then(|| sum / (n * (n - 1) / 2) as f64)
}

/// The effective number of different images, 1 to n: the exponential of the entropy of the eigenvalues of K / n, K the
/// cosines. Source: Friedman & Dieng 2023, arXiv:2210.02410, definition 2.1.
///
/// # Errors
/// [`Error::Failed`] for an empty set, or if the eigendecomposition does not converge.
pub fn vendi(embeddings: &Features) -> Result<f64> {
    let unit = embeddings.normalized();
    let (n, d) = (unit.len(), unit.width());
    if n == 0 {
        return Err(Error::Failed("the Vendi score of no images".into()));
    }
    let x = Mat::from_fn(n, d, |i, j| unit.row(i)[j]);
    // The eigenvalues of X X' / n and of X' X / n are the same but for zeros: the smaller is taken.
    let gram = if n <= d { &x * x.transpose() } else { x.transpose() * &x };
    let gram = faer::Scale(1.0 / n as f64) * gram;
    let failed = |e| Error::Failed(format!("the eigenvalues of the cosines: {e:?}"));
    let eigenvalues = gram.self_adjoint_eigenvalues(Side::Lower).map_err(failed)?;
    let entropy: f64 = eigenvalues.iter().filter(|&&x| x > 0.0).map(|x| -x * x.ln()).sum();
    Ok(entropy.exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    fn features(rows: &[[f64; 2]]) -> Features {
        Features::new(&Tensor::new(rows.concat(), &[rows.len(), 2])).unwrap()
    }

    #[test]
    fn of_known_vectors() {
        let three = features(&[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]);
        assert!((pairwise_cosine_distance(&three).unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert!((vendi(&features(&[[2.0, 0.0], [0.0, 3.0]])).unwrap() - 2.0).abs() < 1e-12);
        assert!((vendi(&features(&[[1.0, 1.0]; 5])).unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(pairwise_cosine_distance(&features(&[[1.0, 0.0]])), None);
    }
}
