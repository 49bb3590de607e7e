//! The published configurations: runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-xl-base-1.0.

use serde_json::{Value, json};

pub fn model_index(xl: bool) -> Value {
    let mut index = json!({
        "_class_name": if xl { "StableDiffusionXLPipeline" } else { "StableDiffusionPipeline" },
        "_diffusers_version": "0.42.1",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", if xl { "EulerDiscreteScheduler" } else { "PNDMScheduler" }],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    });
    if xl {
        index["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
        index["tokenizer_2"] = json!(["transformers", "CLIPTokenizer"]);
        index["force_zeros_for_empty_prompt"] = json!(true);
    } else {
        index["safety_checker"] = json!([null, null]);
        index["feature_extractor"] = json!([null, null]);
    }
    index
}

pub fn scheduler(xl: bool) -> Value {
    let mut config = json!({
        "_class_name": if xl { "EulerDiscreteScheduler" } else { "PNDMScheduler" }, "beta_start": 0.00085,
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "steps_offset": 1,
    });
    let more = match xl {
        true => json!({
            "timestep_spacing": "leading", "prediction_type": "epsilon", "interpolation_type": "linear",
            "use_karras_sigmas": false,
        }),
        false => json!({ "set_alpha_to_one": false, "skip_prk_steps": true, "trained_betas": null }),
    };
    let more = more.as_object().cloned().unwrap_or_default();
    config.as_object_mut().expect("made as an object").extend(more);
    config
}

pub fn sd15_unet() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    })
}

pub fn sdxl_unet() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
        "center_input_sample": false, "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "downsample_padding": 1,
        "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1,
        "norm_eps": 1e-5, "norm_num_groups": 32, "out_channels": 4, "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128, "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "use_linear_projection": true,
    })
}

pub fn vae(xl: bool) -> Value {
    json!({
        "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "in_channels": 3, "latent_channels": 4,
        "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": if xl { 1024 } else { 512 },
        "scaling_factor": if xl { 0.13025 } else { 0.18215 }, "up_block_types": vec!["UpDecoderBlock2D"; 4],
    })
}

/// The text encoder of SD 1.x and the first of SDXL.
pub fn clip_l() -> Value {
    json!({
        "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0,
        "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072,
        "layer_norm_eps": 1e-5, "max_position_embeddings": 77, "model_type": "clip_text_model",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768,
        "vocab_size": 49408,
    })
}

/// The second text encoder of SDXL.
pub fn clip_big_g() -> Value {
    json!({
        "architectures": ["CLIPTextModelWithProjection"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0,
        "eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120,
        "layer_norm_eps": 1e-5, "max_position_embeddings": 77, "model_type": "clip_text_model",
        "num_attention_heads": 20, "num_hidden_layers": 32, "pad_token_id": 1, "projection_dim": 1280,
        "vocab_size": 49408,
    })
}
