//! The best approximation of a weighted sum of products at a lower rank, without forming the dense sum: both stacked
//! factors are reduced by QR, and only a core as small as the summed rank is decomposed. f64 throughout.
//!
//! Source: Eckart & Young 1936; the reduction is Halko, Martinsson & Tropp 2011, arXiv:0909.4061, section 5.2.

use faer::Mat;

use super::dense;
use super::expert::LoraFactors;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// How many singular values to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    Rank(usize),
    /// The fewest whose left-out rest is at most this share of the whole, in the 2-norm.
    MaxError(f64),
    /// All that rounding in f64 cannot explain.
    Exact,
}

/// A decomposition `u * diag(s) * v^T`.
pub struct Svd {
    u: Mat<f64>,
    pub s: Vec<f64>,
    v: Mat<f64>,
}

impl Svd {
    /// Of a dense matrix.
    ///
    /// # Errors
    /// [`Error::Failed`] if the iteration does not converge, which values that are not finite cause.
    pub fn of(matrix: &Mat<f64>) -> Result<Self> {
        let svd = matrix.thin_svd().map_err(|e| Error::Failed(format!("singular value decomposition: {e:?}")))?;
        Ok(Self { u: svd.U().to_owned(), s: svd.S().column_vector().iter().copied().collect(), v: svd.V().to_owned() })
    }

    /// Of `sum_t c_t up_t down_t`, through the stacked factors.
    ///
    /// # Errors
    /// As [`Svd::of`].
    pub fn of_sum(terms: &[(f64, &LoraFactors)]) -> Result<Self> {
        let (up, down) = stacked(terms);
        let (left, right) = (up.qr(), down.transpose().to_owned().qr());
        let core = Self::of(&(left.thin_R() * right.thin_R().transpose()))?;
        Ok(Self { u: left.compute_thin_Q() * core.u, s: core.s, v: right.compute_thin_Q() * core.v })
    }

    /// How many values `cut` keeps: at least one.
    pub fn keep(&self, cut: Cut) -> usize {
        let k = match cut {
            Cut::Rank(k) => k.min(self.s.len()),
            Cut::MaxError(share) => {
                let total: f64 = self.s.iter().map(|s| s * s).sum();
                let (mut rest, mut k) = (0.0, self.s.len());
                while k > 1 && rest + self.s[k - 1].powi(2) <= share * share * total {
                    rest += self.s[k - 1].powi(2);
                    k -= 1;
                }
                k
            }
            Cut::Exact => {
                let floor = self.s[0] * f64::EPSILON * self.u.nrows().max(self.v.nrows()) as f64;
                self.s.iter().take_while(|s| **s > floor).count()
            }
        };
        k.max(1)
    }

    /// The factors of the first `k` values for a weight of `shape`, each side with half of every value: 16-bit formats
    /// then keep both. The scale is 1.
    ///
    /// # Errors
    /// [`Error::Shape`] if `shape` is no weight's.
    pub fn factors(&self, k: usize, shape: &[usize]) -> Result<LoraFactors> {
        self.split(k, shape, |s| (s.sqrt(), s.sqrt()))
    }

    /// The same with all of every value on `up`, as peft and kohya write it.
    ///
    /// # Errors
    /// As [`Svd::factors`].
    pub fn factors_on_up(&self, k: usize, shape: &[usize]) -> Result<LoraFactors> {
        self.split(k, shape, |s| (s, 1.0))
    }

    fn split(&self, k: usize, shape: &[usize], sides: fn(f64) -> (f64, f64)) -> Result<LoraFactors> {
        let up = Mat::from_fn(self.u.nrows(), k, |i, j| self.u[(i, j)] * sides(self.s[j]).0);
        let down = Mat::from_fn(k, self.v.nrows(), |i, j| self.v[(j, i)] * sides(self.s[i]).1);
        from_matrices(&up, &down, shape, k as f64)
    }
}

/// `up` `[o, R]` and `down` `[R, i]` of all terms side by side, the coefficient split over both as `sqrt|c|`.
pub fn stacked(terms: &[(f64, &LoraFactors)]) -> (Mat<f64>, Mat<f64>) {
    let rank: usize = terms.iter().map(|(_, f)| f.rank()).sum();
    let (mut up, mut down) = (Mat::zeros(terms[0].1.outputs(), rank), Mat::zeros(rank, terms[0].1.inputs()));
    let mut at = 0;
    for &(c, factors) in terms {
        let root = c.abs().sqrt();
        up.subcols_mut(at, factors.rank()).copy_from(faer::Scale(root) * dense::up(factors));
        down.subrows_mut(at, factors.rank()).copy_from(faer::Scale(root.copysign(c)) * dense::down(factors));
        at += factors.rank();
    }
    (up, down)
}

/// LoraFactors of a weight of `shape` from matrices, rounded to f32 once.
///
/// # Errors
/// [`Error::Shape`] if they do not fit each other.
pub fn from_matrices(up: &Mat<f64>, down: &Mat<f64>, shape: &[usize], alpha: f64) -> Result<LoraFactors> {
    let mut down_shape = shape.to_vec();
    down_shape[0] = down.nrows();
    let tensor = |m: &Mat<f64>, shape: &[usize]| Tensor::from_reals(dense::rows(m), shape, DType::F32);
    LoraFactors::new(tensor(down, &down_shape), tensor(up, &[up.nrows(), up.ncols()]), alpha)
}
