//! Fresh weights, written and read back.

use std::path::Path;

use selma::autograd::Tape;
use selma::nn::{AutoencoderKl, ClipText, Param, UNet, save};
use selma::tensor::random::{Stream, normals};
use selma::tensor::{DType, Tensor};
use serde_json::{Value, json};

fn write(dir: &Path, weights: &str, config: &Value, parameters: &[Param]) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    save(&dir.join(weights), parameters, DType::F32).unwrap();
}

fn noise(shape: &[usize]) -> Tensor {
    Tensor::new(normals(0, Stream::Noise, 0, 0, shape.iter().product::<usize>()), shape)
}

fn same(what: &str, a: &Tensor, b: &Tensor) {
    assert!(a.bytes() == b.bytes(), "{what}: reading back changed the output");
    assert!(a.reals::<f32>().iter().any(|x| *x != 0.0), "{what}: nothing but zeros");
}

#[test]
fn what_is_saved_loads_as_the_same_network() {
    let dir = tempfile::tempdir().unwrap();
    let (tape, dir) = (Tape::off(), dir.path());
    let config = json!({
        "block_out_channels": [32, 64], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1, "cross_attention_dim": 16,
        "attention_head_dim": 4, "sample_size": 8,
    });
    let unet = UNet::initial(config.clone(), 3, DType::F32).unwrap();
    write(dir, "diffusion_pytorch_model.safetensors", &config, unet.parameters());
    let again = UNet::load(dir, DType::F32).unwrap();
    let run = |unet: &UNet| unet.forward(&tape, &noise(&[1, 8, 8, 4]), &[7.0], &noise(&[1, 5, 16]), None).unwrap();
    same("UNet", &run(&unet), &run(&again));

    let config = json!({
        "block_out_channels": [16, 32], "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "norm_num_groups": 8,
    });
    let vae = AutoencoderKl::initial(config.clone(), 4, DType::F32).unwrap();
    write(dir, "diffusion_pytorch_model.safetensors", &config, vae.parameters());
    let again = AutoencoderKl::load(dir, DType::F32).unwrap();
    let image = noise(&[1, 16, 16, 3]);
    let moments = |vae: &AutoencoderKl| vae.moments(&tape, &image).unwrap();
    same("encoder", &moments(&vae), &moments(&again));
    let latents = noise(&[1, 4, 4, 4]);
    let image = |vae: &AutoencoderKl| vae.decode(&tape, &latents).unwrap();
    same("decoder", &image(&vae), &image(&again));

    let config = json!({
        "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "projection_dim": 8, "eos_token_id": 19,
    });
    let text = ClipText::initial(config.clone(), true, 5, DType::F32).unwrap();
    let dir = dir.join("text_encoder");
    std::fs::create_dir(&dir).unwrap();
    write(&dir, "model.safetensors", &config, text.parameters());
    let again = ClipText::load(&dir, DType::F32).unwrap();
    let ids = Tensor::new(vec![1i64, 4, 7, 19], &[1, 4]);
    let embeds = |text: &ClipText| text.forward(&tape, &ids).unwrap().text_embeds.unwrap();
    same("text encoder", &embeds(&text), &embeds(&again));
}
