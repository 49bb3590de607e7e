//! The Fréchet distance of two sets of features, each taken as a normal distribution. With Inception's features it is FID.
//! Source: Heusel et al. 2017, arXiv:1706.08500, equation 6.

use faer::{Mat, Side};

use super::statistics::Statistics;
use crate::error::{Error, Result};

/// Below so many images FID is biased upward enough to be warned of.
pub const FEW: usize = 10_000;

/// `|mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^1/2`. The last trace is the sum of the roots of the eigenvalues of the
/// symmetric `S1^1/2 S2 S1^1/2`, so that no complex number is needed and singular covariances are no special case.
///
/// # Errors
/// [`Error::Failed`] if the two have different widths, or an eigendecomposition does not converge.
pub fn fid(a: &Statistics, b: &Statistics) -> Result<f64> {
    if a.mu.len() != b.mu.len() {
        let message = format!("statistics of {} and of {} features cannot be compared", a.mu.len(), b.mu.len());
        return Err(Error::Failed(message));
    }
    let difference: f64 = a.mu.iter().zip(&b.mu).map(|(x, y)| (x - y) * (x - y)).sum();
    let trace = |m: &Mat<f64>| (0..m.nrows()).map(|i| m[(i, i)]).sum::<f64>();
    let traces = trace(&a.sigma) + trace(&b.sigma);
    let value = difference + traces - 2.0 * trace_of_root(&a.sigma, &b.sigma)?;
    // What rounding leaves of equal sets.
    Ok(if value.abs() <= 1e-6 * traces && value < 0.0 { 0.0 } else { value })
}

fn trace_of_root(a: &Mat<f64>, b: &Mat<f64>) -> Result<f64> {
    let failed = |e| Error::Failed(format!("the eigenvalues of a covariance: {e:?}"));
    let eigen = a.self_adjoint_eigen(Side::Lower).map_err(failed)?;
    let root = |i: usize| eigen.S().column_vector()[i].max(0.0).sqrt();
    let vectors = eigen.U();
    // In the basis of the first covariance, whose root is diagonal there.
    let turned = vectors.transpose() * b * vectors;
    let middle = Mat::from_fn(a.nrows(), a.nrows(), |i, j| root(i) * 0.5 * (turned[(i, j)] + turned[(j, i)]) * root(j));
    let eigenvalues = middle.self_adjoint_eigenvalues(Side::Lower).map_err(failed)?;
    Ok(eigenvalues.iter().map(|x| x.max(0.0).sqrt()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagonal(mu: [f64; 2], variance: f64) -> Statistics {
        let sigma = Mat::from_fn(2, 2, |i, j| if i == j { variance } else { 0.0 });
        Statistics { mu: mu.to_vec(), sigma, count: None }
    }

    /// N(0, I) and N((1, 0), 4 I): 1 + 2 + 8 - 2 tr 2I = 3.
    #[test]
    fn of_two_known_normal_distributions() {
        let value = fid(&diagonal([0.0, 0.0], 1.0), &diagonal([1.0, 0.0], 4.0)).unwrap();
        assert!((value - 3.0).abs() < 1e-12, "{value}");
    }
}
