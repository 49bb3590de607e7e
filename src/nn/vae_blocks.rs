//! The VAE's encoder and decoder.

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::resnet::{ResnetBlock2D, ResnetShape};
use crate::nn::{Conv2d, GroupNorm, Linear, VaeConfig, Weights};
use crate::ops::{self, Padding};
use crate::tensor::Tensor;

/// diffusers fixes it for the whole VAE.
const EPS: f64 = 1e-6;

/// One head as wide as the channels, over all pixels.
#[derive(Clone)]
struct PixelAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl PixelAttention {
    fn load(w: &Weights, channels: usize, groups: usize) -> Result<Self> {
        // Old files call them query, key, value and proj_attn.
        let project = |name: &str, old: &str| {
            let file = if w.contains(&format!("{old}.weight")) { old } else { name };
            Linear::load(&w.scope_as(name, file), channels, channels, true)
        };
        Ok(Self {
            group_norm: GroupNorm::load(&w.scope("group_norm"), channels, groups, EPS)?,
            to_q: project("to_q", "query")?,
            to_k: project("to_k", "key")?,
            to_v: project("to_v", "value")?,
            to_out: project("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let [n, height, width, c] = x.dims("AutoencoderKL")?;
        let h = self.group_norm.forward(tape, x)?;
        let h = ops::reshape(tape, &h, &[n, height * width, c])?;
        let q = self.to_q.forward(tape, &h)?;
        let k = self.to_k.forward(tape, &h)?;
        let v = self.to_v.forward(tape, &h)?;
        let h = ops::attention(tape, &q, &k, &v, 1, false)?;
        let x = ops::reshape(tape, x, &[n, height * width, c])?;
        let y = self.to_out.forward_residual(tape, &x, &h)?;
        ops::reshape(tape, &y, &[n, height, width, c])
    }
}

/// Resnet, attention where the model has it, resnet.
#[derive(Clone)]
struct MidBlock {
    first: ResnetBlock2D,
    attention: Option<PixelAttention>,
    second: ResnetBlock2D,
}

impl MidBlock {
    fn load(w: &Weights, channels: usize, config: &VaeConfig) -> Result<Self> {
        let resnet = |name| ResnetBlock2D::load(&w.scope(name), channels, channels, shape(config));
        let attention = || PixelAttention::load(&w.scope("attentions.0"), channels, config.norm_num_groups);
        Ok(Self {
            first: resnet("resnets.0")?,
            attention: config.mid_block_add_attention.then(attention).transpose()?,
            second: resnet("resnets.1")?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let mut h = self.first.forward(tape, x, None)?;
        if let Some(attention) = &self.attention {
            h = attention.forward(tape, &h)?;
        }
        self.second.forward(tape, &h, None)
    }
}

fn shape(config: &VaeConfig) -> ResnetShape {
    ResnetShape { groups: config.norm_num_groups, eps: EPS, temb: None }
}

/// Resnets of one resolution, and the convolution to the next.
#[derive(Clone)]
struct Block {
    resnets: Vec<ResnetBlock2D>,
    resample: Option<Conv2d>,
}

impl Block {
    fn load(w: &Weights, c_in: usize, c_out: usize, count: usize, config: &VaeConfig) -> Result<Self> {
        let resnets = (0..count)
            .map(|i| {
                let c_in = if i == 0 { c_in } else { c_out };
                ResnetBlock2D::load(&w.scope(&format!("resnets.{i}")), c_in, c_out, shape(config))
            })
            .collect::<Result<_>>()?;
        Ok(Self { resnets, resample: None })
    }

    fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let mut h = x.clone();
        for resnet in &self.resnets {
            h = resnet.forward(tape, &h, None)?;
        }
        Ok(h)
    }
}

#[derive(Clone)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<Block>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub fn load(w: &Weights, config: &VaeConfig) -> Result<Self> {
        // Only the right and the bottom edge are padded.
        const PADDING: Padding = Padding { top: 0, left: 0, bottom: 1, right: 1 };
        let channels = &config.block_out_channels;
        let last = channels[channels.len() - 1];
        let mut down_blocks = Vec::with_capacity(channels.len());
        for (i, &c) in channels.iter().enumerate() {
            let scope = w.scope(&format!("down_blocks.{i}"));
            let mut block = Block::load(&scope, channels[i.saturating_sub(1)], c, config.layers_per_block, config)?;
            if i + 1 < channels.len() {
                let conv = scope.scope("downsamplers.0.conv");
                block.resample = Some(Conv2d::strided(&conv, c, c, 3, 2, PADDING)?);
            }
            down_blocks.push(block);
        }
        Ok(Self {
            conv_in: Conv2d::load(&w.scope("conv_in"), config.in_channels, channels[0], 3)?,
            down_blocks,
            mid_block: MidBlock::load(&w.scope("mid_block"), last, config)?,
            conv_norm_out: GroupNorm::load(&w.scope("conv_norm_out"), last, config.norm_num_groups, EPS)?,
            conv_out: Conv2d::load(&w.scope("conv_out"), last, 2 * config.latent_channels, 3)?,
        })
    }

    pub fn forward(&self, tape: &Tape, image: &Tensor) -> Result<Tensor> {
        let mut h = self.conv_in.forward(tape, image)?;
        for block in &self.down_blocks {
            h = block.forward(tape, &h)?;
            if let Some(conv) = &block.resample {
                h = conv.forward(tape, &h)?;
            }
        }
        h = self.mid_block.forward(tape, &h)?;
        self.conv_out.forward(tape, &self.conv_norm_out.forward_silu(tape, &h)?)
    }
}

#[derive(Clone)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<Block>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub fn load(w: &Weights, config: &VaeConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let last = channels[channels.len() - 1];
        let mut c_in = last;
        let mut up_blocks = Vec::with_capacity(channels.len());
        for (i, &c) in channels.iter().rev().enumerate() {
            let scope = w.scope(&format!("up_blocks.{i}"));
            let mut block = Block::load(&scope, c_in, c, config.layers_per_block + 1, config)?;
            if i + 1 < channels.len() {
                block.resample = Some(Conv2d::load(&scope.scope("upsamplers.0.conv"), c, c, 3)?);
            }
            up_blocks.push(block);
            c_in = c;
        }
        Ok(Self {
            conv_in: Conv2d::load(&w.scope("conv_in"), config.latent_channels, last, 3)?,
            mid_block: MidBlock::load(&w.scope("mid_block"), last, config)?,
            up_blocks,
            conv_norm_out: GroupNorm::load(&w.scope("conv_norm_out"), channels[0], config.norm_num_groups, EPS)?,
            conv_out: Conv2d::load(&w.scope("conv_out"), channels[0], config.out_channels, 3)?,
        })
    }

    pub fn forward(&self, tape: &Tape, latents: &Tensor) -> Result<Tensor> {
        let mut h = self.conv_in.forward(tape, latents)?;
        h = self.mid_block.forward(tape, &h)?;
        for block in &self.up_blocks {
            h = block.forward(tape, &h)?;
            if let Some(conv) = &block.resample {
                let [_, height, width, _] = h.dims("AutoencoderKL")?;
                h = conv.forward_upsampled(tape, &h, [2 * height, 2 * width])?;
            }
        }
        self.conv_out.forward(tape, &self.conv_norm_out.forward_silu(tape, &h)?)
    }
}
