//! Configurations of a checkpoint's components, in diffusers' terms: numbers from the shapes of its tensors, the rest as
//! the family's published models have it.

use serde_json::{Value, json};

use super::detect::Kind;
use super::{Checkpoint, names};
use crate::error::{Error, Result};

/// Channels of a head in SD 2.x, SDXL and every text encoder.
const HEAD: usize = 64;
/// Above this deviation of one norm's biases an SD 2.x model predicts v (a rule of ComfyUI's, from the published models).
const V_DEVIATION: f64 = 0.09;

/// The configuration of `component`; null for one that checkpoints do not have.
///
/// # Errors
/// [`Error::File`] naming a tensor that is missing.
pub fn infer(checkpoint: &Checkpoint, component: &str) -> Result<Value> {
    match component {
        "unet" => unet(checkpoint),
        "vae" => vae(checkpoint),
        "text_encoder" | "text_encoder_2" => text_encoder(checkpoint, component),
        "scheduler" => scheduler(checkpoint),
        "tokenizer" | "tokenizer_2" => Ok(tokenizer(checkpoint.kind, component)),
        _ => Ok(Value::Null),
    }
}

fn unet(checkpoint: &Checkpoint) -> Result<Value> {
    const COMPONENT: &str = "unet";
    let dim = |name: &str, axis| checkpoint.dim(COMPONENT, name, axis);
    let names = || checkpoint.names(COMPONENT);
    let has = |prefix: &str| names().any(|name| name.starts_with(prefix));
    let levels = names::count(names(), "down_blocks.");
    let mut channels = Vec::new();
    for level in 0..levels {
        channels.push(dim(&format!("down_blocks.{level}.resnets.0.conv1.weight"), 0)?);
    }
    let depth = |at: &str| names::count(names(), &format!("{at}.attentions.0.transformer_blocks."));
    let mut depths: Vec<usize> = (0..levels).map(|level| depth(&format!("down_blocks.{level}")).max(1)).collect();
    if let Some(last) = depths.last_mut() {
        *last = depth("mid_block");
    }
    let kinds = |side: &str, plain: &str, cross: &str| -> Vec<String> {
        let attends = |block| has(&format!("{side}.{block}.attentions."));
        (0..levels).map(|block| if attends(block) { cross } else { plain }.to_string()).collect()
    };
    let middle = "mid_block.attentions.0.transformer_blocks.0";
    let heads = match checkpoint.kind {
        Kind::Sd1 => vec![8; levels],
        _ => channels.iter().map(|c| (c / HEAD).max(1)).collect(),
    };
    let linear = checkpoint.shape(COMPONENT, "mid_block.attentions.0.proj_in.weight").map(|shape| shape.len());
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": heads,
        "block_out_channels": channels,
        "cross_attention_dim": dim(&format!("{middle}.attn2.to_k.weight"), 1)?,
        "down_block_types": kinds("down_blocks", "DownBlock2D", "CrossAttnDownBlock2D"),
        "in_channels": dim("conv_in.weight", 1)?,
        "layers_per_block": checkpoint.stride - 1,
        "out_channels": dim("conv_out.weight", 0)?,
        "sample_size": match (checkpoint.kind, checkpoint.predicted()?.v) {
            (Kind::Sd1, _) | (Kind::Sd2, false) => 64,
            (Kind::Sd2, true) => 96,
            (Kind::Sdxl, _) => 128,
        },
        "transformer_layers_per_block": depths,
        "up_block_types": kinds("up_blocks", "UpBlock2D", "CrossAttnUpBlock2D"),
        "use_linear_projection": linear == Some(2),
    });
    if checkpoint.kind == Kind::Sdxl {
        config["addition_embed_type"] = json!("text_time");
        config["addition_time_embed_dim"] = json!(256);
        config["projection_class_embeddings_input_dim"] = json!(dim("add_embedding.linear_1.weight", 1)?);
    }
    Ok(config)
}

fn vae(checkpoint: &Checkpoint) -> Result<Value> {
    const COMPONENT: &str = "vae";
    let dim = |name: &str, axis| checkpoint.dim(COMPONENT, name, axis);
    let levels = names::count(checkpoint.names(COMPONENT), "encoder.down_blocks.");
    let mut channels = Vec::new();
    for level in 0..levels {
        channels.push(dim(&format!("encoder.down_blocks.{level}.resnets.0.conv1.weight"), 0)?);
    }
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "in_channels": dim("encoder.conv_in.weight", 1)?,
        "latent_channels": dim("post_quant_conv.weight", 0)?,
        "layers_per_block": names::count(checkpoint.names(COMPONENT), "encoder.down_blocks.0.resnets."),
        "out_channels": dim("decoder.conv_out.weight", 0)?,
        "scaling_factor": checkpoint.scaling_factor(),
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
    }))
}

fn text_encoder(checkpoint: &Checkpoint, component: &str) -> Result<Value> {
    let dim = |name: &str, axis| checkpoint.dim(component, name, axis);
    let width = dim("text_model.embeddings.token_embedding.weight", 1)?;
    let open_clip = checkpoint.kind == Kind::Sd2 || component == "text_encoder_2";
    let projection = checkpoint.shape(component, "text_projection.weight").map_or(width, |shape| shape[0]);
    Ok(json!({
        "architectures": [if component == "text_encoder_2" { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }],
        "eos_token_id": 2,
        "hidden_act": if open_clip { "gelu" } else { "quick_gelu" },
        "hidden_size": width,
        "intermediate_size": dim("text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        "max_position_embeddings": dim("text_model.embeddings.position_embedding.weight", 0)?,
        "model_type": "clip_text_model",
        "num_attention_heads": (width / HEAD).max(1),
        "num_hidden_layers": names::count(checkpoint.names(component), "text_model.encoder.layers."),
        "projection_dim": projection,
        "vocab_size": dim("text_model.embeddings.token_embedding.weight", 0)?,
    }))
}

/// What the tokenizers of the published models say: OpenCLIP pads with "!".
fn tokenizer(kind: Kind, component: &str) -> Value {
    let open_clip = kind == Kind::Sd2 || component == "tokenizer_2";
    json!({
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": if open_clip { "!" } else { "<|endoftext|>" },
        "model_max_length": 77,
    })
}

/// The samplers of the published models, on the noise schedule that all families share.
fn scheduler(checkpoint: &Checkpoint) -> Result<Value> {
    let mut config = json!({
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "steps_offset": 1, "prediction_type": checkpoint.predicted()?.name(),
    });
    let more = match checkpoint.kind {
        Kind::Sd1 => json!({ "_class_name": "PNDMScheduler", "skip_prk_steps": true, "set_alpha_to_one": false }),
        Kind::Sd2 => json!({ "_class_name": "DDIMScheduler", "clip_sample": false, "set_alpha_to_one": false }),
        Kind::Sdxl => json!({
            "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "interpolation_type": "linear",
            "use_karras_sigmas": false, "rescale_betas_zero_snr": checkpoint.file.contains("ztsnr"),
        }),
    };
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    Ok(config)
}

/// What a model predicts: v, or the noise; and how that is known.
pub struct Predicted {
    pub v: bool,
    pub because: String,
}

impl Predicted {
    pub fn name(&self) -> &'static str {
        if self.v { "v_prediction" } else { "epsilon" }
    }
}

impl Checkpoint {
    /// By ModelSpec, by marker tensors, and for SD 2.x by a rule of thumb.
    ///
    /// # Errors
    /// Those of the tensor that the rule looks at.
    pub fn predicted(&self) -> Result<Predicted> {
        const BIASES: &str = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
        let known = |v, because: &str| {
            let because = because.into();
            Ok(Predicted { v, because })
        };
        let says = |key: &str| self.file.metadata().get(key).map(String::as_str);
        match (says("modelspec.prediction_type"), says("modelspec.architecture")) {
            (Some("v" | "v_prediction"), _) => return known(true, "the metadata says so"),
            (Some("epsilon"), _) => return known(false, "the metadata says so"),
            (_, Some("stable-diffusion-v2-768-v")) => return known(true, "the metadata names its architecture"),
            _ => {}
        }
        match self.kind {
            Kind::Sdxl if self.file.contains("v_pred") => return known(true, "it holds the marker v_pred"),
            Kind::Sd1 | Kind::Sdxl => return known(false, "most of its family do"),
            Kind::Sd2 if !self.file.contains(BIASES) => return known(false, "nothing says otherwise"),
            Kind::Sd2 => {}
        }
        let biases = self.file.weight(BIASES)?;
        let values = biases.reals::<f64>();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
        let deviation = variance.sqrt();
        Ok(Predicted {
            v: deviation > V_DEVIATION,
            because: format!(
                "{BIASES} deviates by {deviation:.3}, and models that predict v by more than {V_DEVIATION}"
            ),
        })
    }

    /// One dimension of a tensor that every model of the family has.
    fn dim(&self, component: &str, name: &str, axis: usize) -> Result<usize> {
        let shape = self.shape(component, name).unwrap_or_default();
        shape.get(axis).copied().ok_or_else(|| {
            let kind = self.kind.name();
            Error::file(self.file.path(), format!("no tensor for {component}'s {name}, which {kind} models have"))
        })
    }
}
