//! Linear layers and their optional LoRA.

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::{Layer, LoraWeights, Param, Visitor, Weights};
use crate::ops;
use crate::tensor::Tensor;

#[derive(Clone)]
pub struct Linear {
    pub name: String,
    /// `[out, in]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    pub lora: Option<LoraWeights>,
}

/// What a layer multiplies with, without its magnitude.
struct Tensors {
    weight: Tensor,
    bias: Option<Tensor>,
    factors: Option<(Tensor, Tensor)>,
}

impl Linear {
    /// Reads `weight` `[c_out, c_in]`, and `bias` where there is one.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming a weight that is missing or has another shape.
    pub fn load(w: &Weights, c_in: usize, c_out: usize, bias: bool) -> Result<Self> {
        Ok(Self {
            name: w.name().into(),
            weight: w.matrix("weight", c_out, c_in)?,
            bias: bias.then(|| w.vector("bias", c_out)).transpose()?,
            lora: None,
        })
    }

    /// `[.., in]` -> `[.., out]`.
    ///
    /// # Errors
    /// As [`ops::linear`].
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.get(), self.bias.as_ref().map(Param::get));
        match &self.lora {
            None => ops::linear(tape, x, &weight, bias.as_ref()),
            Some(lora) if lora.magnitude.is_some() => self.decomposed(tape, x, None),
            Some(lora) => {
                let (a, b) = (lora.a.get(), lora.b.get());
                ops::lora_linear(tape, x, &weight, bias.as_ref(), lora.layer(&a, &b))
            }
        }
    }

    /// [`Linear::forward`] of a layer with DoRA, and `residual` where there is one.
    fn decomposed(&self, tape: &Tape, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let (weight, bias) = (self.weight.get(), self.bias.as_ref().map(Param::get));
        let (lora, magnitude) = self.dora().expect("asked for where there is one");
        let (a, b) = (lora.a.get(), lora.b.get());
        let z = ops::lora_linear(tape, x, &weight, None, lora.layer(&a, &b))?;
        lora.decomposed(tape, &z, &weight, magnitude, bias.as_ref(), residual)
    }

    fn dora(&self) -> Option<(&LoraWeights, &Param)> {
        let lora = self.lora.as_ref()?;
        Some((lora, lora.magnitude.as_ref()?))
    }

    /// [`Linear::forward`] of one `x` for each of several layers without bias.
    ///
    /// # Errors
    /// As [`ops::linear_group`].
    pub fn forward_group(tape: &Tape, x: &Tensor, layers: &[&Self]) -> Result<Vec<Tensor>> {
        if layers.iter().any(|layer| layer.dora().is_some()) {
            return layers.iter().map(|layer| layer.forward(tape, x)).collect();
        }
        let tensors: Vec<_> = layers.iter().map(|layer| layer.tensors()).collect();
        let group = layers.iter().zip(&tensors).map(|(layer, tensors)| (&tensors.weight, layer.layer(tensors).lora));
        ops::linear_group(tape, x, &group.collect::<Vec<_>>())
    }

    /// `residual` `[.., out]` plus [`Linear::forward`] of `x`.
    ///
    /// # Errors
    /// As [`ops::linear_residual`].
    pub fn forward_residual(&self, tape: &Tape, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        if self.dora().is_some() {
            return self.decomposed(tape, x, Some(residual));
        }
        let tensors = self.tensors();
        let ops::LinearLayer { weight, bias, lora } = self.layer(&tensors);
        ops::linear_residual(tape, residual, x, weight, bias, lora)
    }

    /// `residual` plus this layer of GEGLU of `first` of `x`: `[.., in]` -> `[.., out]`.
    ///
    /// # Errors
    /// As [`ops::gated_feed_forward`].
    pub fn forward_gated(&self, tape: &Tape, residual: &Tensor, first: &Self, x: &Tensor) -> Result<Tensor> {
        if first.dora().is_some() || self.dora().is_some() {
            let h = ops::geglu(tape, &first.forward(tape, x)?)?;
            return self.forward_residual(tape, residual, &h);
        }
        let (mine, firsts) = (self.tensors(), first.tensors());
        ops::gated_feed_forward(tape, residual, x, first.layer(&firsts), self.layer(&mine))
    }

    /// Weight, bias and factors as they are now.
    fn tensors(&self) -> Tensors {
        Tensors {
            weight: self.weight.get(),
            bias: self.bias.as_ref().map(Param::get),
            factors: self.lora.as_ref().map(|lora| (lora.a.get(), lora.b.get())),
        }
    }

    fn layer<'a>(&self, tensors: &'a Tensors) -> ops::LinearLayer<'a> {
        let lora = self.lora.as_ref().zip(tensors.factors.as_ref());
        let lora = lora.map(|(lora, (a, b))| lora.layer(a, b));
        ops::LinearLayer { weight: &tensors.weight, bias: tensors.bias.as_ref(), lora }
    }

    pub(super) fn visit(&mut self, f: &mut Visitor) {
        f(Layer::Linear(self));
    }
}
