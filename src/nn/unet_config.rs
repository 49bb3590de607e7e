//! `unet/config.json` of UNet2DConditionModel.

use serde_json::{Value, json};

use crate::error::Result;
use crate::nn::Config;

/// What SDXL adds to the time embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct AddedEmbedding {
    /// Width of the sinusoid of each of the six sizes.
    pub time_dim: usize,
    /// Width of the pooled text embedding and the six sinusoids together.
    pub input_dim: usize,
}

/// Sizes of a UNet; lists have one entry a down block.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub sample_size: usize,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: Vec<usize>,
    pub down_attention: Vec<bool>,
    /// One entry an up block.
    pub up_attention: Vec<bool>,
    /// Number of heads; the file calls it `attention_head_dim`.
    pub heads: Vec<usize>,
    pub transformer_depth: Vec<usize>,
    pub cross_attention_dim: Vec<usize>,
    pub linear_projection: bool,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub added: Option<AddedEmbedding>,
}

impl UNetConfig {
    /// # Errors
    /// [`crate::Error::File`] naming the key and the value that is not supported.
    pub fn parse(c: &Config) -> Result<Self> {
        supported(c)?;
        let block_out_channels = c.sizes("block_out_channels", &[320, 640, 1280, 1280])?;
        let blocks = block_out_channels.len();
        let kinds = |key, names, default: fn(usize, usize) -> bool| -> Result<Vec<bool>> {
            let default: Vec<usize> = (0..blocks).map(|i| default(i, blocks).into()).collect();
            Ok(c.choices(key, names, &default, blocks)?.into_iter().map(|i| i == 1).collect())
        };
        let heads = c.size_each("attention_head_dim", 8, blocks)?;
        let down_attention = kinds("down_block_types", &["DownBlock2D", "CrossAttnDownBlock2D"], |i, n| i + 1 < n)?;
        let up_attention = kinds("up_block_types", &["UpBlock2D", "CrossAttnUpBlock2D"], |i, _| i > 0)?;
        for (i, (&channels, &heads)) in block_out_channels.iter().zip(&heads).enumerate() {
            let attends = down_attention[i] || up_attention[blocks - 1 - i] || i + 1 == blocks;
            if attends && channels % heads != 0 {
                let reason = format!("{heads} heads do not divide the {channels} channels of block {i}");
                return Err(c.refuse("attention_head_dim", &reason));
            }
        }
        let groups = c.size("norm_num_groups", 32)?;
        if block_out_channels.iter().any(|channels| channels % groups != 0) {
            return Err(c.refuse("norm_num_groups", "it does not divide every entry of `block_out_channels`"));
        }
        let sample_size = match c.get("sample_size") {
            Some(Value::Array(_)) => return Err(c.refuse("sample_size", "expected one number, for a square")),
            _ => c.size("sample_size", 64)?,
        };
        let text_time = c.get("addition_embed_type").is_some();
        c.choice("addition_embed_type", &["text_time"])?;
        let time_dim = c.size("addition_time_embed_dim", 256)?;
        let input_dim = c.size("projection_class_embeddings_input_dim", 2816)?;
        if text_time && input_dim <= 6 * time_dim {
            let reason = format!("it must be larger than the 6 * {time_dim} of `addition_time_embed_dim`");
            return Err(c.refuse("projection_class_embeddings_input_dim", &reason));
        }
        let config = Self {
            in_channels: c.size("in_channels", 4)?,
            out_channels: c.size("out_channels", 4)?,
            sample_size,
            layers_per_block: c.size_each("layers_per_block", 2, blocks)?,
            down_attention,
            up_attention,
            heads,
            transformer_depth: c.size_each("transformer_layers_per_block", 1, blocks)?,
            cross_attention_dim: c.size_each("cross_attention_dim", 1280, blocks)?,
            linear_projection: c.flag("use_linear_projection", false)?,
            norm_num_groups: groups,
            norm_eps: c.number("norm_eps", 1e-5)?,
            flip_sin_to_cos: c.flag("flip_sin_to_cos", true)?,
            freq_shift: c.number("freq_shift", 0.0)?,
            added: text_time.then_some(AddedEmbedding { time_dim, input_dim }),
            block_out_channels,
        };
        c.finish()?;
        Ok(config)
    }
}

/// Refuses what no UNet here does.
fn supported(c: &Config) -> Result<()> {
    c.only(&[
        ("act_fn", json!("silu")),
        ("attention_type", json!("default")),
        ("center_input_sample", json!(false)),
        ("class_embed_type", Value::Null),
        ("class_embeddings_concat", json!(false)),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("cross_attention_norm", Value::Null),
        ("downsample_padding", json!(1)),
        ("dropout", json!(0)),
        ("dual_cross_attention", json!(false)),
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("mid_block_only_cross_attention", json!(false)),
        ("mid_block_scale_factor", json!(1)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("num_attention_heads", Value::Null),
        ("num_class_embeds", Value::Null),
        ("resnet_out_scale_factor", json!(1)),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
        ("reverse_transformer_layers_per_block", Value::Null),
        ("time_cond_proj_dim", Value::Null),
        ("time_embedding_act_fn", Value::Null),
        ("time_embedding_dim", Value::Null),
        ("time_embedding_type", json!("positional")),
        ("timestep_post_act", Value::Null),
    ])?;
    c.never("only_cross_attention")?;
    // Attention is computed in f32 here in any case.
    c.flag("upcast_attention", false)?;
    c.ignore(&["addition_embed_type_num_heads"]);
    Ok(())
}
