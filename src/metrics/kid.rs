//! KID: the unbiased squared maximum mean discrepancy with the kernel `(x.y / d + 1)^3`, over subsets.
//! Source: Binkowski et al. 2018, arXiv:1801.01401, section 4; the estimate is Gretton et al. 2012, equation 3.

use super::Features;
use super::features::dot;
use crate::error::{Error, Result};
use crate::random::{self, Stream};

/// How many subsets, and of how many images each, published values are over.
pub const SUBSETS: usize = 100;
pub const SUBSET_SIZE: usize = 1000;

/// Mean and population standard deviation over the subsets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kid {
    pub mean: f64,
    pub std: f64,
}

/// Of two sets of equal size m. Their own terms leave the diagonal out, the cross term keeps it; its mean is over m^2.
///
/// # Errors
/// [`Error::Failed`] for sets of fewer than two, of different sizes or widths.
pub fn mmd2(x: &Features, y: &Features) -> Result<f64> {
    x.check_pair(y, 2)?;
    if x.len() != y.len() {
        return Err(Error::Failed(format!("KID takes sets of one size, not of {} and {}", x.len(), y.len())));
    }
    let (m, d) = (x.len() as f64, x.width() as f64);
    let kernel = |a: &[f64], b: &[f64]| (dot(a, b) / d + 1.0).powi(3);
    let own = |f: &Features| f.sum_pairs(f, kernel) - f.rows().map(|row| kernel(row, row)).sum::<f64>();
    Ok((own(x) + own(y)) / (m * (m - 1.0)) - 2.0 * x.sum_pairs(y, kernel) / (m * m))
}

/// Over `subsets` subsets of `size` images, drawn without replacement from `seed`.
///
/// # Errors
/// As [`mmd2`]; [`Error::Failed`] if a set has fewer images than a subset.
pub fn kid(x: &Features, y: &Features, subsets: usize, size: usize, seed: u64) -> Result<Kid> {
    x.check_pair(y, size.max(2))?;
    let draw =
        |features: &Features, subset: u64, side: u64| features.subset(&draw(features.len(), size, seed, subset, side));
    let values: Vec<f64> =
        (0..subsets as u64).map(|subset| mmd2(&draw(x, subset, 0), &draw(y, subset, 1))).collect::<Result<_>>()?;
    summary(&values).ok_or_else(|| Error::Failed("KID is over at least one subset".into()))
}

/// `None` without values.
pub fn summary(values: &[f64]) -> Option<Kid> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    (!values.is_empty()).then(|| Kid { mean, std: variance.sqrt() })
}

/// The first `size` places of a shuffle of `0..n` (Fisher and Yates).
fn draw(n: usize, size: usize, seed: u64, subset: u64, side: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in 0..size {
        let step = (i as u64) << 1 | side;
        let j = i + random::below(seed, Stream::Subset, subset, step, (n - i) as u32) as usize;
        order.swap(i, j);
    }
    order.truncate(size);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    /// k(1,2) = 27, k(0,1) = 1, cross 1, 8, 1, 27: (27 + 27) / 2 + (1 + 1) / 2 - 2 * 37 / 4 = 9.5.
    #[test]
    fn of_two_numbers_against_two() {
        let features = |values: [f64; 2]| Features::new(&Tensor::new(values.to_vec(), &[2, 1])).unwrap();
        let value = mmd2(&features([1.0, 2.0]), &features([0.0, 1.0])).unwrap();
        assert!((value - 9.5).abs() < 1e-12, "{value}");
    }

    #[test]
    fn a_subset_has_no_image_twice() {
        let mut drawn = draw(50, 50, 3, 1, 0);
        assert_ne!(drawn, draw(50, 50, 3, 2, 0));
        drawn.sort_unstable();
        assert_eq!(drawn, (0..50).collect::<Vec<_>>());
    }
}
