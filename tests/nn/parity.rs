use std::path::Path;

use selma::autograd::Tape;
use selma::formats::safetensors::Safetensors;
use selma::nn::layout::{channels_first, channels_last};
use selma::nn::{AddedConditions, AutoencoderKl, ClipText, UNet};
use selma::tensor::{DType, Tensor};
use serde_json::Value;

use crate::{fixtures, relative_error};

/// Runs `check` on every case of a kind and reports all that fail, with the largest error of each.
fn every_case(kind: &str, tolerance: f64, check: fn(&Path, &Value, &Safetensors) -> Vec<(String, f64)>) {
    let root = match std::env::var_os("SELMA_TEST_PARITY") {
        Some(root) => root.into(),
        None => fixtures(),
    };
    let mut failed = Vec::new();
    let mut ran = 0;
    let mut folders: Vec<_> = std::fs::read_dir(root.join("cases")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for folder in folders {
        let case: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
        if case["kind"] != kind {
            continue;
        }
        ran += 1;
        let name = folder.file_name().unwrap().to_str().unwrap().to_string();
        let tensors = Safetensors::open(&folder.join("tensors.safetensors")).unwrap();
        for (quantity, error) in check(&root.join(case["model"].as_str().unwrap()), &case, &tensors) {
            println!("{name} {quantity}: {error:.2e}");
            if error.is_nan() || error >= tolerance {
                failed.push(format!("{name} {quantity}: {error:.2e}"));
            }
        }
    }
    assert!(ran > 0, "no case of kind {kind}");
    assert!(failed.is_empty(), "{failed:#?}");
}

fn image(tensors: &Safetensors, name: &str) -> Tensor {
    channels_last(&tensors.tensor(name).unwrap()).unwrap()
}

fn error(name: &str, got: &Tensor, tensors: &Safetensors) -> (String, f64) {
    let key = format!("out.{name}");
    (name.into(), relative_error(got, &tensors.tensor(&key).unwrap()))
}

#[test]
fn unet_forward() {
    every_case("unet_forward", 2e-5, |model, _, tensors| {
        let unet = UNet::load(&model.join("unet"), DType::F32).unwrap();
        let get = |name: &str| tensors.tensor(name).unwrap();
        let timesteps = get("in.timestep").reals::<f32>().into_owned();
        let added = tensors
            .contains("in.add_time_ids")
            .then(|| AddedConditions { text_embeds: get("in.add_text_embeds"), time_ids: get("in.add_time_ids") });
        let sample = image(tensors, "in.sample");
        let context = get("in.encoder_hidden_states");
        let y = unet.forward(&Tape::off(), &sample, &timesteps, &context, added.as_ref()).unwrap();
        vec![error("sample", &channels_first(&y).unwrap(), tensors)]
    });
}

#[test]
fn text_encoder() {
    every_case("text_encoder", 1e-5, |model, case, tensors| {
        let encoder = ClipText::load(&model.join(case["subfolder"].as_str().unwrap()), DType::F32).unwrap();
        let output = encoder.forward(&Tape::off(), &tensors.tensor("in.input_ids").unwrap()).unwrap();
        let states = &output.hidden_states;
        let mut errors = vec![
            error("last_hidden_state", &output.last_hidden_state, tensors),
            error("hidden_states.-2", &states[states.len() - 2], tensors),
            error("pooler_output", &output.pooled, tensors),
        ];
        if tensors.contains("out.text_embeds") {
            errors.push(error("text_embeds", &output.text_embeds.unwrap(), tensors));
        }
        errors
    });
}

#[test]
fn vae() {
    every_case("vae", 2e-5, |model, _, tensors| {
        let vae = AutoencoderKl::load(&model.join("vae"), DType::F32).unwrap();
        let tape = Tape::off();
        let (mean, log_variance) = vae.encode(&tape, &image(tensors, "in.image")).unwrap();
        let decoded = vae.decode(&tape, &image(tensors, "in.latents")).unwrap();
        [("mean", mean), ("logvar", log_variance), ("image", decoded)]
            .map(|(name, x)| error(name, &channels_first(&x).unwrap(), tensors))
            .into()
    });
}
