//! The built-in model's definition: the configurations of its networks, and its folder in diffusers' layout.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::render::SIDE;
use super::vocabulary::tokenizer_files;
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::nn::{AutoencoderKl, ClipText, UNet, save};
use crate::tensor::DType;

/// What the configurations say of the libraries that they are meant for.
const DIFFUSERS: &str = "0.42.1";
/// Width of the text states.
const TEXT_WIDTH: usize = 64;
/// Channels of a latent.
pub const LATENT_CHANNELS: usize = 4;
/// Pixels of an image's edge for each latent's.
pub const DOWNSCALE: usize = 4;
/// Latents to a side.
pub const LATENT_SIDE: usize = SIDE as usize / DOWNSCALE;

/// `vae/config.json`. What the UNet sees is a latent times `scaling_factor`.
pub fn vae_config(scaling_factor: f64) -> Value {
    json!({
        "_class_name": "AutoencoderKL", "_diffusers_version": DIFFUSERS, "act_fn": "silu",
        "in_channels": 3, "out_channels": 3, "latent_channels": LATENT_CHANNELS, "sample_size": SIDE,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
        "block_out_channels": [16, 16, 32], "layers_per_block": 1, "norm_num_groups": 8,
        "mid_block_add_attention": false, "use_quant_conv": false, "use_post_quant_conv": false,
        "scaling_factor": scaling_factor, "force_upcast": false,
    })
}

/// `unet/config.json`. Most of its weights work on 4x4 and 8x8 latents.
pub fn unet_config() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": DIFFUSERS, "act_fn": "silu",
        "sample_size": LATENT_SIDE, "in_channels": LATENT_CHANNELS, "out_channels": LATENT_CHANNELS,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [32, 64, 96], "layers_per_block": 1, "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4, "norm_num_groups": 8, "norm_eps": 1e-5,
        "flip_sin_to_cos": true, "freq_shift": 0, "center_input_sample": false, "downsample_padding": 1,
        "mid_block_scale_factor": 1,
    })
}

/// Tokens of the vocabulary, start and end of text included.
pub fn vocabulary_size() -> usize {
    let vocab: BTreeMap<String, usize> = serde_json::from_str(&tokenizer_files().vocab).expect("written as JSON");
    vocab.len()
}

/// `text_encoder/config.json`, for a vocabulary that ends with start and end of text.
pub fn text_config(vocab_size: usize) -> Value {
    json!({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model",
        "vocab_size": vocab_size, "max_position_embeddings": 77,
        "hidden_size": TEXT_WIDTH, "intermediate_size": 4 * TEXT_WIDTH, "projection_dim": TEXT_WIDTH,
        "num_hidden_layers": 3, "num_attention_heads": 4,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "attention_dropout": 0.0,
        "bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1, "pad_token_id": vocab_size - 1,
    })
}

/// `scheduler/scheduler_config.json`: Stable Diffusion's noise; the network predicts v (Salimans & Ho 2022,
/// arXiv:2202.00512), which at this size learns colours and layouts sooner than the noise does.
pub fn scheduler_config() -> Value {
    json!({
        "_class_name": "DDIMScheduler", "_diffusers_version": DIFFUSERS,
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "prediction_type": "v_prediction", "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1,
    })
}

fn model_index() -> Value {
    json!({
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": DIFFUSERS,
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [null, null], "feature_extractor": [null, null], "image_encoder": [null, null],
        "requires_safety_checker": false,
    })
}

/// The networks of the built-in model.
pub struct Networks<'a> {
    pub vae: &'a AutoencoderKl,
    pub text: &'a ClipText,
    pub unet: &'a UNet,
}

impl Networks<'_> {
    /// Writes the model into `dir`, with weights in f16: f32 ones would not be better images, but twice the bytes.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = |path: &str, value: &Value| text(dir, path, &format!("{value:#}\n"));
        let tokenizer = tokenizer_files();
        text(dir, "tokenizer/vocab.json", &tokenizer.vocab)?;
        text(dir, "tokenizer/merges.txt", &tokenizer.merges)?;
        text(dir, "tokenizer/tokenizer_config.json", &tokenizer.config)?;
        text(dir, "tokenizer/special_tokens_map.json", &tokenizer.special_tokens)?;
        json("scheduler/scheduler_config.json", &scheduler_config())?;
        json("vae/config.json", &vae_config(self.vae.config.scaling_factor))?;
        json("text_encoder/config.json", &text_config(self.text.config.vocab_size))?;
        json("unet/config.json", &unet_config())?;
        for (path, parameters) in [
            ("vae/diffusion_pytorch_model.safetensors", self.vae.parameters()),
            ("text_encoder/model.safetensors", self.text.parameters()),
            ("unet/diffusion_pytorch_model.safetensors", self.unet.parameters()),
        ] {
            save(&dir.join(path), parameters, DType::F16)?;
        }
        // Last: a folder with an index is a whole model.
        json("model_index.json", &model_index())
    }
}

fn text(dir: &Path, path: &str, content: &str) -> Result<()> {
    let path = dir.join(path);
    let folder = atomic::folder(&path);
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    atomic::write_bytes(&path, content.as_bytes())
}
