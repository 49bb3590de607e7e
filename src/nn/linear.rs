//! Linear layers and their optional LoRA branch.

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::{Layer, LoraBranch, Param, Visitor, Weights};
use crate::ops;
use crate::tensor::Tensor;

#[derive(Clone)]
pub struct Linear {
    pub name: String,
    /// `[out, in]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    pub lora: Option<LoraBranch>,
}

impl Linear {
    pub fn load(w: &Weights, c_in: usize, c_out: usize, bias: bool) -> Result<Self> {
        Ok(Self {
            name: w.name().into(),
            weight: w.matrix("weight", c_out, c_in)?,
            bias: bias.then(|| w.vector("bias", c_out)).transpose()?,
            lora: None,
        })
    }

    /// `[.., in]` -> `[.., out]`.
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.get(), self.bias.as_ref().map(Param::get));
        match &self.lora {
            None => ops::linear(tape, x, &weight, bias.as_ref()),
            Some(LoraBranch { down, up, scale, order }) => {
                let branch = ops::Branch {
                    a: &down.get(),
                    b: &up.get(),
                    scale: *scale,
                    order: *order,
                };
                ops::lora_linear(tape, x, &weight, bias.as_ref(), branch)
            }
        }
    }

    /// `onto` `[.., out]` plus [`Linear::forward`] of `x`.
    pub fn forward_onto(&self, tape: &Tape, onto: &Tensor, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.get(), self.bias.as_ref().map(Param::get));
        let factors = self.lora.as_ref().map(|lora| (lora.down.get(), lora.up.get()));
        let branch = self
            .lora
            .as_ref()
            .zip(factors.as_ref())
            .map(|(lora, (a, b))| ops::Branch {
                a,
                b,
                scale: lora.scale,
                order: lora.order,
            });
        ops::add_linear(tape, onto, x, &weight, bias.as_ref(), branch)
    }

    /// GEGLU of [`Linear::forward`]: `[.., in]` -> `[.., out / 2]`.
    pub fn forward_geglu(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        match &self.lora {
            None => ops::linear_geglu(tape, x, &self.weight.get(), self.bias.as_ref().map(Param::get).as_ref()),
            Some(_) => ops::geglu(tape, &self.forward(tape, x)?),
        }
    }

    pub(super) fn visit(&mut self, f: &mut Visitor) {
        f(Layer::Linear(self));
    }
}
