//! Group and layer normalisation with their parameters.

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::nn::{Param, Weights};
use crate::ops;
use crate::tensor::Tensor;

#[derive(Clone)]
pub struct GroupNorm {
    pub weight: Param,
    pub bias: Param,
    pub groups: usize,
    pub eps: f64,
}

impl GroupNorm {
    /// Reads `weight` and `bias` `[channels]`.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming a weight that is missing or has another shape.
    pub fn load(w: &Weights, channels: usize, groups: usize, eps: f64) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            let message =
                format!("{}: `norm_num_groups` is {groups}, which does not divide {channels} channels", w.name());
            return Err(Error::Failed(message));
        }
        Ok(Self { weight: w.vector("weight", channels)?, bias: w.vector("bias", channels)?, groups, eps })
    }

    /// `[n, h, w, c]` -> the same shape.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the channels of `x` are others; what a GPU says.
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        self.apply(tape, x, false)
    }

    /// [`GroupNorm::forward`] and then SiLU, in one pass.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_silu(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        self.apply(tape, x, true)
    }

    /// [`GroupNorm::forward_silu`] of two tensors side by side, and the two so.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_silu_concat(&self, tape: &Tape, x: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        ops::group_norm_concat(tape, x, &self.weight.get(), &self.bias.get(), self.groups, self.eps, true)
    }

    fn apply(&self, tape: &Tape, x: &Tensor, silu: bool) -> Result<Tensor> {
        let (weight, bias) = (self.weight.get(), self.bias.get());
        ops::group_norm(tape, x, &weight, &bias, self.groups, self.eps, silu)
    }
}

#[derive(Clone)]
pub struct LayerNorm {
    pub weight: Param,
    pub bias: Param,
    pub eps: f64,
}

impl LayerNorm {
    /// Reads `weight` and `bias` `[channels]`.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming a weight that is missing or has another shape.
    pub fn load(w: &Weights, channels: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: w.vector("weight", channels)?, bias: w.vector("bias", channels)?, eps })
    }

    /// `[.., c]` -> the same shape.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the channels of `x` are others; what a GPU says.
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(tape, x, &self.weight.get(), &self.bias.get(), self.eps)
    }
}
