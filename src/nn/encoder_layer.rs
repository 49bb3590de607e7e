//! A layer of a CLIP tower: attention and a feed-forward part, each after its norm and added to what it was given.

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::{LayerNorm, Linear, Visitor, Weights};
use crate::ops;
use crate::tensor::Tensor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(1.702 x)`: OpenAI's weights.
    QuickGelu,
    /// With the error function: all others.
    Gelu,
}

impl Activation {
    /// `x` of any shape -> the same shape.
    pub(super) fn forward(self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::QuickGelu => ops::quick_gelu(tape, x),
            Self::Gelu => ops::gelu(tape, x),
        }
    }
}

/// What the layers of a tower have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerConfig {
    pub width: usize,
    /// Of the feed-forward part.
    pub inner: usize,
    pub heads: usize,
    pub eps: f64,
    pub activation: Activation,
    /// Whether a token sees those before it alone.
    pub causal: bool,
}

#[derive(Clone)]
pub(super) struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl EncoderLayer {
    pub fn load(w: &Weights, config: &LayerConfig) -> Result<Self> {
        let (c, inner, attention) = (config.width, config.inner, w.scope("self_attn"));
        let project = |name| Linear::load(&attention.scope(name), c, c, true);
        let norm = |name| LayerNorm::load(&w.scope(name), c, config.eps);
        Ok(Self {
            layer_norm1: norm("layer_norm1")?,
            q_proj: project("q_proj")?,
            k_proj: project("k_proj")?,
            v_proj: project("v_proj")?,
            out_proj: project("out_proj")?,
            layer_norm2: norm("layer_norm2")?,
            fc1: Linear::load(&w.scope("mlp.fc1"), c, inner, true)?,
            fc2: Linear::load(&w.scope("mlp.fc2"), inner, c, true)?,
        })
    }

    /// `x` `[n, t, c]` -> the same shape.
    pub fn forward(&self, tape: &Tape, x: &Tensor, config: &LayerConfig) -> Result<Tensor> {
        let h = self.layer_norm1.forward(tape, x)?;
        let q = self.q_proj.forward(tape, &h)?;
        let k = self.k_proj.forward(tape, &h)?;
        let v = self.v_proj.forward(tape, &h)?;
        let h = ops::attention(tape, &q, &k, &v, config.heads, config.causal)?;
        let x = self.out_proj.forward_residual(tape, x, &h)?;
        let h = self.layer_norm2.forward(tape, &x)?;
        let h = self.fc1.forward(tape, &h)?;
        let h = config.activation.forward(tape, &h)?;
        self.fc2.forward_residual(tape, &x, &h)
    }

    pub fn visit(&mut self, f: &mut Visitor) {
        for linear in
            [&mut self.q_proj, &mut self.k_proj, &mut self.v_proj, &mut self.out_proj, &mut self.fc1, &mut self.fc2]
        {
            linear.visit(f);
        }
    }
}
