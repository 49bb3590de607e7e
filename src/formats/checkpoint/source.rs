//! Where a tensor of diffusers' names lies in a checkpoint: most are a tensor of the file, some a part of one.

use std::path::Path;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What of a stored tensor is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// The n-th third of the rows: OpenCLIP stores query, key and value as one.
    Third(usize),
    /// `[a, b]` as `[b, a]`.
    Transposed,
}

/// A stored tensor's key, and the part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub key: String,
    pub part: Part,
}

impl Source {
    pub fn whole(key: impl Into<String>) -> Self {
        Self { key: key.into(), part: Part::Whole }
    }

    /// The shape of the part.
    pub fn shape(&self, stored: &[usize]) -> Vec<usize> {
        let mut shape = stored.to_vec();
        match (self.part, shape.first_mut()) {
            (Part::Third(_), Some(rows)) => *rows /= 3,
            (Part::Transposed, Some(_)) => shape.reverse(),
            _ => {}
        }
        shape
    }

    /// The part of the `stored` tensor.
    ///
    /// # Errors
    /// [`Error::File`] under the name `path` where the tensor cannot be parted so.
    pub fn take(&self, stored: &Tensor, path: &Path) -> Result<Tensor> {
        let refuse = |what: &str| {
            let message = format!("tensor {} has shape {:?}; expected {what}", self.key, stored.shape());
            Error::file(path, message)
        };
        match self.part {
            Part::Whole => Ok(stored.clone()),
            Part::Third(i) => match stored.shape().first() {
                Some(rows) if rows.is_multiple_of(3) => {
                    let shape = self.shape(stored.shape());
                    Ok(stored.view(i * (stored.len() / 3), &shape))
                }
                _ => Err(refuse("a number of rows that 3 divides: query, key and value")),
            },
            Part::Transposed => match *stored.shape() {
                [rows, columns] => Ok(transposed(stored, rows, columns)),
                _ => Err(refuse("a matrix")),
            },
        }
    }

    /// Puts `part` back in its place in the `stored` tensor.
    ///
    /// # Errors
    /// As [`Source::take`].
    pub fn put(&self, part: &Tensor, stored: &Tensor, path: &Path) -> Result<Tensor> {
        match self.part {
            Part::Whole => Ok(part.clone()),
            Part::Transposed => self.take(part, path),
            Part::Third(i) => {
                let mut values = stored.reals::<f64>().into_owned();
                let len = values.len() / 3;
                values[i * len..(i + 1) * len].copy_from_slice(&part.reals::<f64>());
                Ok(Tensor::from_reals(values, stored.shape(), stored.dtype()))
            }
        }
    }
}

fn transposed(x: &Tensor, rows: usize, columns: usize) -> Tensor {
    let from = x.reals::<f64>();
    let to = (0..columns).flat_map(|j| (0..rows).map(move |i| i * columns + j));
    Tensor::from_reals(to.map(|at| from[at]).collect::<Vec<f64>>(), &[columns, rows], x.dtype())
}
