//! The two-layer network over sinusoids of timesteps or sizes (diffusers' TimestepEmbedding).

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::{Linear, Visitor, Weights};
use crate::ops;
use crate::tensor::Tensor;

#[derive(Clone)]
pub(super) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    pub fn load(w: &Weights, c_in: usize, width: usize) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(&w.scope("linear_1"), c_in, width, true)?,
            linear_2: Linear::load(&w.scope("linear_2"), width, width, true)?,
        })
    }

    /// `[n, c_in]` -> `[n, width]`.
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let h = ops::silu(tape, &self.linear_1.forward(tape, x)?)?;
        self.linear_2.forward(tape, &h)
    }

    pub fn visit(&mut self, f: &mut Visitor) {
        self.linear_1.visit(f);
        self.linear_2.visit(f);
    }
}
