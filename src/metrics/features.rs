//! Features of images, a row an image.

use std::path::Path;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;
use crate::tensor::Tensor;

/// `[n, d]` f64, row-major, finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    width: usize,
    values: Vec<f64>,
}

impl Features {
    /// # Errors
    /// [`Error::Shape`] if the tensor is not `[n, d]` with d > 0; [`Error::Failed`] naming the row with NaN or infinity.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        let [_, width] = tensor.dims("features")?;
        if width == 0 {
            return Err(Error::shape("features", "expected at least one feature an image"));
        }
        let values = tensor.reals::<f64>().into_owned();
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::Failed(format!("feature {} of image {} is {}", at % width, at / width, values[at])));
        }
        Ok(Self { width, values })
    }

    /// The tensor `features` of a safetensors file: how features of other networks come in.
    ///
    /// # Errors
    /// As [`Safetensors::open`]; [`Error::File`] where there is no such tensor, or it is not `[n, d]`.
    pub fn read(path: &Path) -> Result<Self> {
        let tensor = Safetensors::open(path)?.weight("features")?;
        Self::new(&tensor).map_err(|e| Error::file(path, e.to_string()))
    }

    /// Images.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.width..][..self.width]
    }

    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width)
    }

    /// The rows of `indices`, in their order.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn subset(&self, indices: &[usize]) -> Self {
        let values = indices.iter().flat_map(|&i| self.row(i)).copied().collect();
        Self { width: self.width, values }
    }

    /// Every row divided by its 2-norm; a row of zeros stays.
    pub fn normalized(&self) -> Self {
        let divided = |row: &[f64]| {
            let norm = dot(row, row).sqrt();
            let norm = if norm == 0.0 { 1.0 } else { norm };
            row.iter().map(|x| x / norm).collect::<Vec<f64>>()
        };
        Self { width: self.width, values: self.rows().flat_map(divided).collect() }
    }

    /// The sum of `f` over all pairs of a row here and a row of `other`. The order of summation does not depend on the
    /// threads.
    pub fn sum_pairs(&self, other: &Self, f: impl Fn(&[f64], &[f64]) -> f64 + Sync) -> f64 {
        let rows: Vec<f64> =
            (0..self.len()).into_par_iter().map(|i| other.rows().map(|row| f(self.row(i), row)).sum()).collect();
        rows.iter().sum()
    }

    /// # Errors
    /// [`Error::Failed`] if the two have features of different width, or one of them fewer than `least` images.
    pub fn check_pair(&self, other: &Self, least: usize) -> Result<()> {
        if self.width != other.width {
            let message = format!("features of {} and of {} values cannot be compared", self.width, other.width);
            return Err(Error::Failed(message));
        }
        match self.len().min(other.len()) {
            n if n < least => Err(Error::Failed(format!("expected at least {least} images in each set, got {n}"))),
            _ => Ok(()),
        }
    }
}

/// The inner product, in eight sums so that it is vectorised.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    eight_sums(a, b, |x, y| x * y)
}

/// The square of the Euclidean distance.
pub fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    eight_sums(a, b, |x, y| (x - y) * (x - y))
}

fn eight_sums(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(&x, &y)| f(x, y)).sum();
    for (a, b) in a8.zip(b8) {
        for k in 0..8 {
            sums[k] += f(a[k], b[k]);
        }
    }
    sums.iter().sum::<f64>() + rest
}
