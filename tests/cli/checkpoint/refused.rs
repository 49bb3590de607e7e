//! Files that are no checkpoint of Stable Diffusion, or a damaged one.

use selma::formats::safetensors::{Safetensors, write};
use selma::tensor::{DType, Tensor};

use super::draw;
use super::writer::{Tensors, checkpoint};

#[test]
fn other_kinds_of_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    checkpoint("tiny-sd1", &at("model.safetensors"));
    let file = Safetensors::open(&at("model.safetensors")).unwrap();
    let whole: Tensors = file.names().map(|name| (name.to_string(), file.tensor(name).unwrap())).collect();
    let metadata = file.metadata().clone();
    let refused = |tensors: Tensors, words: &[&str]| {
        write(&at("other.safetensors"), &tensors.into_iter().collect::<Vec<_>>(), &metadata).unwrap();
        let output = draw(&at("other.safetensors"), &at("out")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
        assert!(!at("out").exists());
    };
    let one = |name: &str| Tensors::from([(name.to_string(), Tensor::zeros(&[4, 4], DType::F32))]);
    refused(one("model.diffusion_model.joint_blocks.0.x.weight"), &["Stable Diffusion 3"]);
    refused(one("double_blocks.0.img_attn.qkv.weight"), &["FLUX"]);
    refused(one("control_model.input_blocks.0.0.weight"), &["ControlNet"]);
    refused(one("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"), &["a LoRA", "--lora"]);
    refused(one("down_blocks.0.resnets.0.conv1.weight"), &["diffusers folder"]);
    refused(one("first_stage_model.decoder.conv_in.weight"), &["a VAE"]);
    refused(one("something.else"), &["no checkpoint"]);
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = whole.clone();
        change(&mut tensors);
        tensors
    };
    let channels = |n: usize| {
        changed(&|t| {
            drop(t.insert(
                "model.diffusion_model.input_blocks.0.0.weight".into(),
                Tensor::zeros(&[32, n, 3, 3], DType::F32),
            ))
        })
    };
    refused(channels(9), &["inpainting"]);
    refused(channels(8), &["InstructPix2Pix"]);
    refused(channels(5), &["depth"]);
    refused(changed(&|t| t.retain(|k, _| !k.contains("middle_block.1."))), &["distilled"]);
    refused(changed(&|t| t.retain(|k, _| !k.starts_with("first_stage_model."))), &["no VAE", "--vae"]);
    refused(changed(&|t| t.retain(|k, _| !k.starts_with("cond_stage_model."))), &["without a text encoder"]);
    refused(
        changed(&|t| {
            drop(t.insert("conditioner.embedders.0.model.ln_final.weight".into(), Tensor::zeros(&[1], DType::F32)))
        }),
        &["refiner"],
    );
    refused(
        changed(&|t| {
            drop(
                t.insert(
                    "model.diffusion_model.input_blocks.1.0.motion.weight".into(),
                    Tensor::zeros(&[1], DType::F32),
                ),
            )
        }),
        &["1 tensors have no place", "motion"],
    );
    refused(
        changed(&|t| {
            drop(t.insert(
                "first_stage_model.decoder.up.0.block.0.norm1.weight".into(),
                Tensor::full(&[8], f64::NAN, DType::F32),
            ))
        }),
        &["first_stage_model.decoder.up.0.block.0.norm1.weight", "NaN"],
    );
    refused(changed(&|t| drop(t.remove("model.diffusion_model.out.2.bias"))), &["conv_out.bias"]);
    std::fs::write(at("old.ckpt"), [b"PK\x03\x04".as_slice(), &[0; 60]].concat()).unwrap();
    let output = draw(&at("old.ckpt"), &at("out")).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("pickle"));
}
