//! Transformer2DModel: attention over pixels, cross-attention to the text, a gated feed-forward layer.

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::{Conv2d, GroupNorm, LayerNorm, Linear, Visitor, Weights};
use crate::ops::{self, Epilogue};
use crate::tensor::Tensor;

/// diffusers fixes this one, whatever the model's `norm_eps`.
const GROUP_NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;

#[derive(Clone)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl Attention {
    fn load(w: &Weights, channels: usize, context: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            to_q: Linear::load(&w.scope("to_q"), channels, channels, false)?,
            to_k: Linear::load(&w.scope("to_k"), context, channels, false)?,
            to_v: Linear::load(&w.scope("to_v"), context, channels, false)?,
            to_out: Linear::load(&w.scope("to_out.0"), channels, channels, true)?,
            heads,
        })
    }

    /// `x` `[n, t, c]` attends to a text of these keys and values, or to itself where there are none -> `residual` `[n, t, c]` and
    /// what attention adds to it.
    fn forward_residual(
        &self,
        tape: &Tape,
        residual: &Tensor,
        x: &Tensor,
        text: Option<[&Tensor; 2]>,
    ) -> Result<Tensor> {
        let h = match text {
            Some([k, v]) => ops::attention(tape, &self.to_q.forward(tape, x)?, k, v, self.heads, false)?,
            None => {
                let all = Linear::forward_group(tape, x, &[&self.to_q, &self.to_k, &self.to_v])?;
                let [q, k, v] = &all[..] else { unreachable!("a result for each layer") };
                ops::attention(tape, q, k, v, self.heads, false)?
            }
        };
        self.to_out.forward_residual(tape, residual, &h)
    }

    fn visit(&mut self, f: &mut Visitor) {
        for layer in [&mut self.to_q, &mut self.to_k, &mut self.to_v, &mut self.to_out] {
            layer.visit(f);
        }
    }
}

#[derive(Clone)]
struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl BasicTransformerBlock {
    fn load(w: &Weights, channels: usize, context: usize, heads: usize) -> Result<Self> {
        let norm = |name| LayerNorm::load(&w.scope(name), channels, LAYER_NORM_EPS);
        let inner = 4 * channels;
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Attention::load(&w.scope("attn1"), channels, channels, heads)?,
            norm2: norm("norm2")?,
            attn2: Attention::load(&w.scope("attn2"), channels, context, heads)?,
            norm3: norm("norm3")?,
            ff_in: Linear::load(&w.scope("ff.net.0.proj"), channels, 2 * inner, true)?,
            ff_out: Linear::load(&w.scope("ff.net.2"), inner, channels, true)?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Tensor, text: [&Tensor; 2]) -> Result<Tensor> {
        let h = self.norm1.forward(tape, x)?;
        let x = self.attn1.forward_residual(tape, x, &h, None)?;
        let h = self.norm2.forward(tape, &x)?;
        let x = self.attn2.forward_residual(tape, &x, &h, Some(text))?;
        let h = self.norm3.forward(tape, &x)?;
        self.ff_out.forward_gated(tape, &x, &self.ff_in, &h)
    }

    fn visit(&mut self, f: &mut Visitor) {
        self.attn1.visit(f);
        self.attn2.visit(f);
        self.ff_in.visit(f);
        self.ff_out.visit(f);
    }
}

/// proj_in and proj_out: the same map, stored as a linear layer (SD2, SDXL) or a 1x1 convolution (SD1).
#[derive(Clone)]
enum Projection {
    Linear(Linear),
    Conv(Conv2d),
}

impl Projection {
    fn load(w: &Weights, channels: usize, linear: bool) -> Result<Self> {
        Ok(match linear {
            true => Projection::Linear(Linear::load(w, channels, channels, true)?),
            false => Projection::Conv(Conv2d::load(w, channels, channels, 1)?),
        })
    }

    /// `[n, h, w, c]` -> the same shape.
    fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        match self {
            Projection::Linear(layer) => layer.forward(tape, x),
            Projection::Conv(layer) => layer.forward(tape, x),
        }
    }

    /// `residual` plus [`Projection::forward`] of `x`.
    fn forward_residual(&self, tape: &Tape, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        match self {
            Projection::Linear(layer) => layer.forward_residual(tape, residual, x),
            Projection::Conv(layer) => {
                let epilogue = Epilogue { channel_bias: None, residual: Some(residual) };
                layer.forward_epilogue(tape, x, epilogue)
            }
        }
    }

    fn visit(&mut self, f: &mut Visitor) {
        match self {
            Projection::Linear(layer) => layer.visit(f),
            Projection::Conv(layer) => layer.visit(f),
        }
    }
}

/// The sizes of one Transformer2DModel.
#[derive(Clone, Copy)]
pub(super) struct TransformerShape {
    pub heads: usize,
    pub depth: usize,
    pub context: usize,
    pub groups: usize,
    pub linear_projection: bool,
}

#[derive(Clone)]
pub(super) struct Transformer2D {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Projection,
}

impl Transformer2D {
    pub fn load(w: &Weights, channels: usize, shape: TransformerShape) -> Result<Self> {
        let projection = |name| Projection::load(&w.scope(name), channels, shape.linear_projection);
        let blocks = w.scope("transformer_blocks");
        Ok(Self {
            norm: GroupNorm::load(&w.scope("norm"), channels, shape.groups, GROUP_NORM_EPS)?,
            proj_in: projection("proj_in")?,
            transformer_blocks: (0..shape.depth)
                .map(|i| {
                    BasicTransformerBlock::load(&blocks.scope(&i.to_string()), channels, shape.context, shape.heads)
                })
                .collect::<Result<_>>()?,
            proj_out: projection("proj_out")?,
        })
    }

    /// Layers that make keys and values of the text, in this order for each of the blocks.
    pub fn of_text(&self) -> impl Iterator<Item = &Linear> {
        self.transformer_blocks.iter().flat_map(|block| [&block.attn2.to_k, &block.attn2.to_v])
    }

    /// `x` `[n, h, w, c]`, and what [`Transformer2D::of_text`] makes of the text -> `[n, h, w, c]`.
    pub fn forward(&self, tape: &Tape, x: &Tensor, text: &[Tensor]) -> Result<Tensor> {
        let [n, height, width, c] = x.dims("Transformer2DModel")?;
        let h = self.proj_in.forward(tape, &self.norm.forward(tape, x)?)?;
        let mut h = ops::reshape(tape, &h, &[n, height * width, c])?;
        for (block, [k, v]) in self.transformer_blocks.iter().zip(text.as_chunks::<2>().0) {
            h = block.forward(tape, &h, [k, v])?;
        }
        let h = ops::reshape(tape, &h, &[n, height, width, c])?;
        self.proj_out.forward_residual(tape, x, &h)
    }

    pub fn visit(&mut self, f: &mut Visitor) {
        self.proj_in.visit(f);
        for block in &mut self.transformer_blocks {
            block.visit(f);
        }
        self.proj_out.visit(f);
    }
}
