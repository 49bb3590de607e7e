//! A model with random weights that is large enough for its memory to be measured.

use std::path::{Path, PathBuf};

use selma::nn::{AutoencoderKl, ClipText, Param, UNet, save};
use selma::tensor::DType;
use serde_json::{Value, json};

fn component(dir: &Path, weights: &str, config: &Value, parameters: &[Param]) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    save(&dir.join(weights), parameters, DType::F16).unwrap();
}

/// A Stable Diffusion 1 of 30 million values that works on 32 x 32 latents, in `dir/model`.
pub fn small(dir: &Path) -> PathBuf {
    let model = dir.join("model");
    let unet = json!({
        "block_out_channels": [64, 128, 256], "layers_per_block": 1, "cross_attention_dim": 64,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 4, "sample_size": 32,
    });
    let weights = "diffusion_pytorch_model.safetensors";
    let network = UNet::initial(unet.clone(), 1, DType::F32).unwrap();
    component(&model.join("unet"), weights, &unet, network.parameters());
    let vae = json!({
        "block_out_channels": [32, 64, 64], "down_block_types": vec!["DownEncoderBlock2D"; 3],
        "up_block_types": vec!["UpDecoderBlock2D"; 3], "norm_num_groups": 8,
    });
    let network = AutoencoderKl::initial(vae.clone(), 2, DType::F32).unwrap();
    component(&model.join("vae"), weights, &vae, network.parameters());
    let text = json!({
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
        "projection_dim": 64, "eos_token_id": 2,
    });
    let network = ClipText::initial(text.clone(), false, 3, DType::F32).unwrap();
    component(&model.join("text_encoder"), "model.safetensors", &text, network.parameters());
    for name in ["tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json", "model_index.json"] {
        let to = model.join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(crate::parity("models/tiny-sd1").join(name), to).unwrap();
    }
    model
}
