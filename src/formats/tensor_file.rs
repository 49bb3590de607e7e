//! A file of named tensors: safetensors, or a pickle that PyTorch wrote.

use std::path::Path;

use super::pickle::{Pickle, is_pickle};
use super::safetensors::Safetensors;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

pub enum TensorFile {
    Safetensors(Safetensors),
    Pickle(Pickle),
}

impl TensorFile {
    /// By what the file begins with.
    ///
    /// # Errors
    /// As [`Safetensors::open`] and [`Pickle::open`].
    pub fn open(path: &Path) -> Result<Self> {
        match path.is_file() && is_pickle(path) {
            true => Pickle::open(path).map(Self::Pickle),
            false => Safetensors::open(path).map(Self::Safetensors),
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
            Self::Pickle(file) => file.path(),
        }
    }

    /// Names in sorted order.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Safetensors(file) => Box::new(file.names()),
            Self::Pickle(file) => Box::new(file.names()),
        }
    }

    /// The shape of one tensor, without touching its data.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match self {
            Self::Safetensors(file) => file.shape(name),
            Self::Pickle(file) => file.shape(name),
        }
    }

    /// Copies one tensor out: floats, all of them finite.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor that is not there, is no float, or holds NaN or infinity.
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        let file = match self {
            Self::Safetensors(file) => return file.weight(name),
            Self::Pickle(file) => file,
        };
        let tensor = file.tensor(name)?;
        let refuse = |what: &str| Err(Error::file(file.path(), format!("tensor {name} holds {what}")));
        match (tensor.dtype().is_float(), tensor.is_finite()) {
            (false, _) => refuse("integers; expected floats"),
            (true, false) => refuse("NaN or infinity: the file is damaged, or its training diverged"),
            (true, true) => Ok(tensor),
        }
    }
}
