//! ResnetBlock2D, with the time embedding (UNet) or without (VAE).

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::{Conv2d, GroupNorm, Linear, Visitor, Weights};
use crate::ops::Epilogue;
use crate::tensor::Tensor;

/// What all resnets of a model have in common.
#[derive(Clone, Copy)]
pub(super) struct ResnetShape {
    pub groups: usize,
    pub eps: f64,
    /// Width of the time embedding, where there is one.
    pub temb: Option<usize>,
}

#[derive(Clone)]
pub(super) struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    pub fn load(w: &Weights, c_in: usize, c_out: usize, shape: ResnetShape) -> Result<Self> {
        let ResnetShape { groups, eps, temb } = shape;
        Ok(Self {
            norm1: GroupNorm::load(&w.scope("norm1"), c_in, groups, eps)?,
            conv1: Conv2d::load(&w.scope("conv1"), c_in, c_out, 3)?,
            time_emb_proj: temb.map(|width| Linear::load(&w.scope("time_emb_proj"), width, c_out, true)).transpose()?,
            norm2: GroupNorm::load(&w.scope("norm2"), c_out, groups, eps)?,
            conv2: Conv2d::load(&w.scope("conv2"), c_out, c_out, 3)?,
            conv_shortcut: (c_in != c_out)
                .then(|| Conv2d::load(&w.scope("conv_shortcut"), c_in, c_out, 1))
                .transpose()?,
        })
    }

    /// `x` `[n, h, w, c_in]`, `temb` `[n, temb]` after SiLU -> `[n, h, w, c_out]`.
    pub fn forward(&self, tape: &Tape, x: &Tensor, temb: Option<&Tensor>) -> Result<Tensor> {
        let h = self.norm1.forward_silu(tape, x)?;
        self.rest(tape, x, &h, temb)
    }

    /// [`ResnetBlock2D::forward`] of a hidden state and a skip connection side by side.
    pub fn forward_concat(&self, tape: &Tape, x: [&Tensor; 2], temb: Option<&Tensor>) -> Result<Tensor> {
        let [h, x] = self.norm1.forward_silu_concat(tape, x)?;
        self.rest(tape, &x, &h, temb)
    }

    /// What follows the first norm of `x`, `h`.
    fn rest(&self, tape: &Tape, x: &Tensor, h: &Tensor, temb: Option<&Tensor>) -> Result<Tensor> {
        let t = match (&self.time_emb_proj, temb) {
            (Some(proj), Some(temb)) => Some(proj.forward(tape, temb)?),
            _ => None,
        };
        let epilogue = Epilogue { channel_bias: t.as_ref(), residual: None };
        let h = self.conv1.forward_epilogue(tape, h, epilogue)?; // [n, h, w, c_out]
        let h = self.norm2.forward_silu(tape, &h)?;
        let residual = |x| Epilogue { channel_bias: None, residual: Some(x) };
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward_epilogue(tape, x, residual(&self.conv2.forward(tape, &h)?)),
            None => self.conv2.forward_epilogue(tape, &h, residual(x)),
        }
    }

    pub fn visit(&mut self, f: &mut Visitor) {
        self.conv1.visit(f);
        if let Some(proj) = &mut self.time_emb_proj {
            proj.visit(f);
        }
        self.conv2.visit(f);
        if let Some(conv) = &mut self.conv_shortcut {
            conv.visit(f);
        }
    }
}
