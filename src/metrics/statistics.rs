//! Mean and covariance of features, and their files: `.npz` as pytorch-fid writes and reads it.

use std::path::Path;

use faer::Mat;

use super::Features;
use crate::error::{Error, Result};
use crate::formats::npz::{self, Array};

/// What FID needs to know of a set.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// `[d]`.
    pub mu: Vec<f64>,
    /// `[d, d]`, with n - 1.
    pub sigma: Mat<f64>,
    /// How many images it is of; files of other programs do not say.
    pub count: Option<usize>,
}

impl Statistics {
    /// # Errors
    /// [`Error::Failed`] for fewer than two images, which have no covariance.
    pub fn of(features: &Features) -> Result<Self> {
        let (n, d) = (features.len(), features.width());
        if n < 2 {
            return Err(Error::Failed(format!("expected at least two images, got {n}")));
        }
        let mut mu = vec![0.0; d];
        for row in features.rows() {
            mu.iter_mut().zip(row).for_each(|(m, x)| *m += x);
        }
        mu.iter_mut().for_each(|m| *m /= n as f64);
        let centred = Mat::from_fn(n, d, |i, j| features.row(i)[j] - mu[j]);
        let sigma = faer::Scale(1.0 / (n - 1) as f64) * (centred.transpose() * &centred);
        Ok(Self { mu, sigma, count: Some(n) })
    }

    /// Reads `mu` and `sigma`.
    ///
    /// # Errors
    /// As [`npz::read`]; [`Error::File`] where one of the two is missing, has another shape, or is not finite.
    pub fn read(path: &Path) -> Result<Self> {
        let mut arrays = npz::read(path)?;
        let mut take = |name: &str| {
            arrays.remove(name).ok_or_else(|| Error::file(path, format!("no array `{name}`; expected mu and sigma")))
        };
        let (mu, sigma) = (take("mu")?, take("sigma")?);
        let d = mu.values.len();
        if mu.shape != [d] || sigma.shape != [d, d] || d == 0 {
            let message = format!("mu is {:?} and sigma {:?}; expected [d] and [d, d]", mu.shape, sigma.shape);
            return Err(Error::file(path, message));
        }
        if mu.values.iter().chain(&sigma.values).any(|x| !x.is_finite()) {
            return Err(Error::file(path, "mu or sigma holds NaN or infinity"));
        }
        let count = take("n").ok().and_then(|n| n.values.first().map(|&n| n as usize));
        let sigma = Mat::from_fn(d, d, |i, j| sigma.values[i * d + j]);
        Ok(Self { mu: mu.values, sigma, count })
    }

    /// Writes `mu` and `sigma`, and the number of images as `n`, which pytorch-fid ignores. The same statistics give the
    /// same bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let d = self.mu.len();
        let sigma = (0..d * d).map(|at| self.sigma[(at / d, at % d)]).collect();
        let mut arrays = vec![
            ("mu", Array { shape: vec![d], values: self.mu.clone() }),
            ("sigma", Array { shape: vec![d, d], values: sigma }),
        ];
        if let Some(count) = self.count {
            arrays.push(("n", Array { shape: vec![1], values: vec![count as f64] }));
        }
        npz::write(path, &arrays)
    }
}
