//! CMMD: the biased squared maximum mean discrepancy of CLIP embeddings with a Gaussian kernel, times 1000.
//! Source: Jayasumana et al. 2024, arXiv:2401.09603.

use super::Features;
use super::features::squared_distance;
use crate::error::Result;

const SIGMA: f64 = 10.0;
const SCALE: f64 = 1000.0;

/// Below so many images the value is uncertain enough to be warned of.
pub const FEW: usize = 1000;

/// Of embeddings of 2-norm 1, means over all pairs, the diagonal included. `1 - k` is summed instead of k: for unit vectors
/// every k is at least 0.98, and the difference of means of k would lose its digits.
///
/// # Errors
/// [`crate::Error::Failed`] for empty sets, or sets of different widths.
pub fn cmmd(x: &Features, y: &Features) -> Result<f64> {
    x.check_pair(y, 1)?;
    let lack = |a: &[f64], b: &[f64]| -(-squared_distance(a, b) / (2.0 * SIGMA * SIGMA)).exp_m1();
    let mean = |a: &Features, b: &Features| a.sum_pairs(b, lack) / (a.len() as f64 * b.len() as f64);
    Ok(SCALE * (2.0 * mean(x, y) - mean(x, x) - mean(y, y)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    /// 2000 (1 - exp(-0.01)).
    #[test]
    fn of_two_orthogonal_vectors() {
        let features = |values: [f64; 2]| Features::new(&Tensor::new(values.to_vec(), &[1, 2])).unwrap();
        let value = cmmd(&features([1.0, 0.0]), &features([0.0, 1.0])).unwrap();
        assert!((value - 19.900_332_5).abs() < 1e-6, "{value}");
    }
}
