//! UNet2DConditionModel, as in Stable Diffusion 1.x, 2.x and XL.

use std::path::Path;

use crate::autograd::Tape;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::error::{Error, Result};
use crate::nn::resnet::ResnetShape;
use crate::nn::timestep::TimestepEmbedding;
use crate::nn::transformer::TransformerShape;
use crate::nn::unet_blocks::{DownBlock, MidBlock, Text, UpBlock};
use crate::nn::{Config, Conv2d, GroupNorm, Linear, Param, UNetConfig, Visitor, Weights, input, move_to};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// What SDXL is told besides the text.
#[derive(Clone, Debug)]
pub struct AddedConditions {
    /// The second encoder's projected embedding, `[n, p]`.
    pub text_embeds: Tensor,
    /// Original height and width, top and left of the crop, target height and width: f32 `[n, 6]`.
    pub time_ids: Tensor,
}

#[derive(Clone)]
pub struct UNet {
    pub config: UNetConfig,
    dtype: DType,
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    parameters: Vec<Param>,
}

impl UNet {
    /// Loads `dir` (a model's `unet` folder) with matrices in `dtype`.
    ///
    /// # Errors
    /// [`Error::File`] naming the file and the key or tensor that does not fit.
    pub fn load(dir: &Path, dtype: DType) -> Result<Self> {
        let config = UNetConfig::parse(&Config::open(&dir.join("config.json"))?)?;
        Self::build(config, Weights::open(dir, dtype)?)
    }

    /// A network with fresh weights, for the keys of a `config.json`.
    ///
    /// # Errors
    /// As [`UNet::load`] for the configuration.
    pub fn initial(config: serde_json::Value, seed: u64, dtype: DType) -> Result<Self> {
        let config = UNetConfig::parse(&Config::from_value(Path::new("config.json"), config)?)?;
        Self::build(config, Weights::initial(seed, dtype))
    }

    /// A network whose weights are memory of `gpu` with unspecified values: for a list of what it launches.
    ///
    /// # Errors
    /// As [`UNet::load`] for the configuration; what the GPU says.
    pub fn unset(config: serde_json::Value, gpu: &Gpu, dtype: DType) -> Result<Self> {
        let config = UNetConfig::parse(&Config::from_value(Path::new("config.json"), config)?)?;
        Self::build(config, Weights::unset(gpu, dtype))
    }

    fn build(config: UNetConfig, w: Weights) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let width = 4 * first;
        let resnet = ResnetShape { groups: config.norm_num_groups, eps: config.norm_eps, temb: Some(width) };
        // Sizes of the transformers beside down block `i`.
        let transformer = |i: usize| TransformerShape {
            heads: config.heads[i],
            depth: config.transformer_depth[i],
            context: config.cross_attention_dim[i],
            groups: config.norm_num_groups,
            linear_projection: config.linear_projection,
        };
        let blocks = channels.len();
        let mut down_blocks = Vec::with_capacity(blocks);
        let mut up_blocks = Vec::with_capacity(blocks);
        for i in 0..blocks {
            down_blocks.push(DownBlock::load(
                &w.scope(&format!("down_blocks.{i}")),
                [channels[i.saturating_sub(1)], channels[i]],
                config.layers_per_block[i],
                resnet,
                config.down_attention[i].then(|| transformer(i)),
                i + 1 < blocks,
            )?);
            // Up block `i` stands beside down block `level`.
            let level = blocks - 1 - i;
            up_blocks.push(UpBlock::load(
                &w.scope(&format!("up_blocks.{i}")),
                &up_inputs(channels, level, config.layers_per_block[level] + 1),
                channels[level],
                resnet,
                config.up_attention[i].then(|| transformer(level)),
                level > 0,
            )?);
        }
        let add_embedding = (config.added.as_ref())
            .map(|added| TimestepEmbedding::load(&w.scope("add_embedding"), added.input_dim, width))
            .transpose()?;
        Ok(Self {
            dtype: w.dtype(),
            conv_in: Conv2d::load(&w.scope("conv_in"), config.in_channels, first, 3)?,
            time_embedding: TimestepEmbedding::load(&w.scope("time_embedding"), first, width)?,
            add_embedding,
            down_blocks,
            mid_block: MidBlock::load(&w.scope("mid_block"), last, resnet, transformer(blocks - 1))?,
            up_blocks,
            conv_norm_out: GroupNorm::load(&w.scope("conv_norm_out"), first, config.norm_num_groups, config.norm_eps)?,
            conv_out: Conv2d::load(&w.scope("conv_out"), first, config.out_channels, 3)?,
            parameters: w.finish()?,
            config,
        })
    }

    /// The raw network output for `sample` `[n, h, w, c]`, `timesteps` of n values, `context` `[n, l, d]` and, for SDXL,
    /// `added` -> `[n, h, w, c_out]`. Inputs are brought to the model's device and rounded to its type first.
    ///
    /// # Errors
    /// [`Error::Shape`] where the inputs do not fit the model or each other; [`Error::NoGradient`] where a tracked input is
    /// not of the model's type.
    pub fn forward(
        &self,
        tape: &Tape,
        sample: &Tensor,
        timesteps: &[f32],
        context: &Tensor,
        added: Option<&AddedConditions>,
    ) -> Result<Tensor> {
        let timesteps = Tensor::new(timesteps.to_vec(), &[timesteps.len()]);
        self.forward_at(tape, sample, &timesteps, context, added)
    }

    /// As [`UNet::forward`], with the timesteps as a tensor, f32 `[n]`: where all inputs are on the model's device, the host
    /// takes no part.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn forward_at(
        &self,
        tape: &Tape,
        sample: &Tensor,
        timesteps: &Tensor,
        context: &Tensor,
        added: Option<&AddedConditions>,
    ) -> Result<Tensor> {
        self.check(sample, timesteps, context)?;
        let device = self.device();
        let context = &input(tape, context, &device, self.dtype)?;
        // Every resnet begins its use of the embedding with SiLU: done once here.
        let temb = ops::silu(tape, &self.time_embedding(tape, timesteps, added)?)?;

        let mut h = self.conv_in.forward(tape, &input(tape, sample, &device, self.dtype)?)?;
        let mut skips = vec![h.clone()];
        let text = Linear::forward_group(tape, context, &self.of_text())?;
        let text = &mut Text(&text);
        for block in &self.down_blocks {
            h = block.forward(tape, &h, &temb, text, &mut skips)?;
        }
        h = self.mid_block.forward(tape, &h, &temb, text)?;
        for block in &self.up_blocks {
            h = block.forward(tape, &h, &temb, text, &mut skips)?;
        }
        let h = self.conv_norm_out.forward_silu(tape, &h)?;
        self.conv_out.forward(tape, &h)
    }

    /// Layers that make keys and values of the text: all multiply the same, so they go together.
    fn of_text(&self) -> Vec<&Linear> {
        let down = self.down_blocks.iter().flat_map(DownBlock::of_text);
        let up = self.up_blocks.iter().flat_map(UpBlock::of_text);
        down.chain(self.mid_block.of_text()).chain(up).collect()
    }

    /// The time embedding, with SDXL's additions -> `[n, 4 * first width]`.
    fn time_embedding(&self, tape: &Tape, timesteps: &Tensor, added: Option<&AddedConditions>) -> Result<Tensor> {
        let device = self.device();
        let sinusoid = |values: &Tensor, dim| {
            let (flip, shift) = (self.config.flip_sin_to_cos, self.config.freq_shift);
            let embedded = ops::timestep_embedding(&values.to(&device)?, dim, flip, shift)?;
            ops::cast(&embedded, self.dtype)
        };
        let t = sinusoid(timesteps, self.config.block_out_channels[0])?;
        let temb = self.time_embedding.forward(tape, &t)?;
        let (Some(shape), Some(embedding)) = (&self.config.added, &self.add_embedding) else {
            return Ok(temb);
        };
        let refuse = |message: String| Error::shape("UNet2DConditionModel", message);
        let added = added.ok_or_else(|| refuse("an SDXL model needs text_embeds and time_ids".into()))?;
        let (n, pooled) = (timesteps.len(), shape.input_dim - 6 * shape.time_dim);
        if added.time_ids.shape() != [n, 6] || added.text_embeds.shape() != [n, pooled] {
            return Err(refuse(format!(
                "expected text_embeds [{n}, {pooled}] and time_ids [{n}, 6], got {:?} and {:?}",
                added.text_embeds.shape(),
                added.time_ids.shape()
            )));
        }
        let sizes = sinusoid(&added.time_ids, shape.time_dim)?.with_shape(&[n, 6 * shape.time_dim]);
        let h = ops::concat_channels(tape, &input(tape, &added.text_embeds, &device, self.dtype)?, &sizes)?;
        ops::add(tape, &temb, &embedding.forward(tape, &h)?)
    }

    fn check(&self, sample: &Tensor, timesteps: &Tensor, context: &Tensor) -> Result<()> {
        let [n, h, w, c] = sample.dims("UNet2DConditionModel")?;
        let [rows, length, width] = context.dims("UNet2DConditionModel")?;
        let expected = self.config.cross_attention_dim[0];
        let message = if c != self.config.in_channels {
            format!("the model takes {} channels, the sample has {c}", self.config.in_channels)
        } else if rows != n || timesteps.len() != n {
            format!("{n} samples with {} timesteps and {rows} contexts", timesteps.len())
        } else if width != expected {
            format!("the model takes contexts of width {expected}, this one has {width}")
        } else if h == 0 || w == 0 || length == 0 {
            "the sample or the context is empty".into()
        } else {
            return Ok(());
        };
        Err(Error::shape("UNet2DConditionModel", message))
    }

    /// Whether the backward pass computes each resnet and its transformer once more from their inputs, instead of
    /// keeping what they saved: a third more work for a fraction of the memory.
    pub fn set_checkpointing(&mut self, on: bool) {
        self.down_blocks.iter_mut().for_each(|block| block.set_checkpointing(on));
        self.mid_block.set_checkpointing(on);
        self.up_blocks.iter_mut().for_each(|block| block.set_checkpointing(on));
    }

    /// Hands every linear layer and convolution to `f`, in the order of the modules.
    pub fn visit(&mut self, f: &mut Visitor) {
        self.conv_in.visit(f);
        self.time_embedding.visit(f);
        self.add_embedding.iter_mut().for_each(|embedding| embedding.visit(f));
        self.down_blocks.iter_mut().for_each(|block| block.visit(f));
        self.mid_block.visit(f);
        self.up_blocks.iter_mut().for_each(|block| block.visit(f));
        self.conv_out.visit(f);
    }

    /// Every weight of the base model, without LoRA factors.
    pub fn parameters(&self) -> &[Param] {
        &self.parameters
    }

    /// Brings every weight to `device`, where the network then computes. LoRA branches that are attached later go there
    /// too.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn to(&self, device: &Device) -> Result<()> {
        move_to(&self.parameters, device)
    }

    pub fn device(&self) -> Device {
        self.conv_in.weight.get().device()
    }

    /// The type of the matrices and of what is computed.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}

/// The widths of hidden state plus skip that the resnets of an up block take. The skips are, in reverse, the outputs of
/// the down block at `level`, the last one being what came into it.
fn up_inputs(channels: &[usize], level: usize, count: usize) -> Vec<usize> {
    let below = channels[(level + 1).min(channels.len() - 1)];
    (0..count)
        .map(|j| {
            let hidden = if j == 0 { below } else { channels[level] };
            let skip = if j + 1 == count { channels[level.saturating_sub(1)] } else { channels[level] };
            hidden + skip
        })
        .collect()
}
