//! Named values that training and merging replace.

use std::sync::{Arc, Mutex, PoisonError};

use crate::autograd::Tape;
use crate::error::Result;
use crate::ops::{self, LoraLayer, LoraOrder};
use crate::tensor::Tensor;

/// A named tensor that can be replaced while modules hold it. Clones are the same parameter.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

struct Inner {
    name: String,
    value: Mutex<Tensor>,
}

impl Param {
    pub fn new(name: impl Into<String>, value: Tensor) -> Self {
        Self(Arc::new(Inner { name: name.into(), value: Mutex::new(value) }))
    }

    /// The full dotted name, as in checkpoints.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The value. Until the next [`Param::set`] it is the same tensor each time, so a tape knows it by its id.
    pub fn get(&self) -> Tensor {
        self.0.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, value: Tensor) {
        *self.0.value.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Param({} {:?})", self.name(), self.get())
    }
}

/// The LoRA of a layer: `scale * b(a(x))`. On a linear layer `a` is `[r, in]`; on a convolution it has the base's kernel,
/// stride and padding, `[r, kh, kw, c_in]`. `b` is `[out, r]` on both.
#[derive(Clone, Debug)]
pub struct LoraWeights {
    pub a: Param,
    pub b: Param,
    pub scale: f64,
    /// Of the products on a linear layer.
    pub order: LoraOrder,
    /// DoRA: the length of each row of the weight, `[out]`.
    pub magnitude: Option<Param>,
}

impl LoraWeights {
    /// DoRA of what `weight` and this LoRA make of something, `z` `[.., out]` without a bias; with a bias and a residual where
    /// there are any.
    pub(super) fn decomposed(
        &self,
        tape: &Tape,
        z: &Tensor,
        weight: &Tensor,
        magnitude: &Param,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let norm = ops::dora_norm(weight, &self.a.get(), &self.b.get(), self.scale)?;
        ops::dora(tape, z, &magnitude.get(), &norm, bias, residual)
    }

    /// With its present values `a` and `b`, as the ops of a linear layer take it.
    pub(super) fn layer<'a>(&self, a: &'a Tensor, b: &'a Tensor) -> LoraLayer<'a> {
        LoraLayer { a, b, scale: self.scale, order: self.order }
    }
}
