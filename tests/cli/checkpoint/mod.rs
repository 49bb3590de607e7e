//! Single-file checkpoints: the small models written in the LDM layout must do what their folders do.

mod converted;
mod published;
mod refused;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;

use assert_cmd::Command;
use selma::formats::safetensors::{Safetensors, write};
use selma::tensor::{DType, Tensor};

use crate::{bytes, drawn, parity, selma};
use writer::{checkpoint, json_of, tensors_of, vae_to_ldm};

const MODELS: [&str; 3] = ["tiny-sd1", "tiny-sd2", "tiny-sdxl"];

fn draw(model: &Path, out: &Path) -> Command {
    let mut command = selma();
    command.args(["generate", "--prompt", "two red foxes! in the snow", "--steps", "3", "--seed", "3", "--overwrite"]);
    command.arg("--model").arg(model).arg("--out").arg(out);
    command
}

/// The pixels of what a command draws; the texts beside them name the model.
fn pixels(command: &mut Command, out: &Path) -> Vec<u8> {
    command.assert().success();
    image::load_from_memory(&drawn(out)[0]).unwrap().into_rgb8().into_raw()
}

#[test]
fn a_checkpoint_draws_what_its_folder_draws() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for model in MODELS {
        let (file, folder) = (at("model.safetensors"), parity(&format!("models/{model}")));
        checkpoint(model, &file);
        let mut of_folder = draw(&folder, &at("a"));
        let expected = pixels(of_folder.arg("--vocab").arg(parity("clip_vocab")), &at("a"));
        // The vocabulary is inside of the program.
        let mut of_file = draw(&file, &at("b"));
        let output = of_file.output().unwrap();
        let notes = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{model}: {notes}");
        assert!(notes.contains("a_note_of_somebody is unused"), "{notes}");
        assert_eq!(notes.matches("is unused").count(), 1, "{notes}");
        assert!(pixels(&mut of_file, &at("b")) == expected, "{model}");
    }
}

#[test]
fn loras_apply_to_a_checkpoint_and_are_baked_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for model in MODELS {
        let (file, folder) = (at("model.safetensors"), parity(&format!("models/{model}")));
        checkpoint(model, &file);
        let lora = at("lora.safetensors");
        sample_lora(&folder, &lora);
        let scaled = format!("{}:0.7", lora.display());
        let mut of_folder = draw(&folder, &at("a"));
        of_folder.arg("--vocab").arg(parity("clip_vocab")).args(["--lora", &scaled]);
        let expected = pixels(&mut of_folder, &at("a"));
        let plain = pixels(&mut draw(&file, &at("b")), &at("b"));
        assert!(plain != expected, "{model}: the LoRA changes nothing");
        assert!(pixels(draw(&file, &at("b")).args(["--lora", &scaled]), &at("b")) == expected, "{model}");

        // Baked: the same values as in the baked folder, under the same keys as before.
        let bake = |into: &Path, out: &Path| {
            let mut command = selma();
            command.args(["merge", "--method", "concat", "--lora", &scaled, "--quiet"]);
            command.arg("--into").arg(into).arg("--out").arg(out).assert().success();
        };
        bake(&folder, &at("baked"));
        bake(&file, &at("baked.safetensors"));
        let mut of_folder = draw(&at("baked"), &at("a"));
        let expected = pixels(of_folder.arg("--vocab").arg(parity("clip_vocab")), &at("a"));
        assert!(pixels(&mut draw(&at("baked.safetensors"), &at("b")), &at("b")) == expected, "{model}");
        assert!(plain != expected);
        let (before, after) = (Safetensors::open(&file).unwrap(), Safetensors::open(&at("baked.safetensors")).unwrap());
        assert!(before.names().eq(after.names()));
        assert_eq!(before.metadata(), after.metadata());
        std::fs::remove_dir_all(at("baked")).unwrap();
        std::fs::remove_file(at("baked.safetensors")).unwrap();
    }
}

/// A LoRA on the attention of the UNet and on a projection of every text encoder, text encoders in the spelling of kohya.
fn sample_lora(folder: &Path, path: &Path) {
    let base = selma::lora::base::modules(folder).unwrap();
    let mut expert = selma::lora::Expert::default();
    let fill = |shape: &[usize]| {
        let len = shape.iter().product::<usize>();
        Tensor::new((0..len).map(|i| ((i * i + 1) as f32).sin() * 0.4).collect::<Vec<_>>(), shape)
    };
    for (component, modules) in &base {
        for (module, shape) in modules {
            let wanted = ["attn1.to_v", "attn2.to_k", "k_proj", "v_proj", "fc1", "proj_in", "conv1"];
            if wanted.iter().any(|name| module.ends_with(name)) {
                let mut down = shape.clone();
                down[0] = 3;
                let factors = selma::lora::LoraFactors::new(fill(&down), fill(&[shape[0], 3]), 2.0).unwrap();
                expert.insert(component, module, factors);
            }
        }
    }
    selma::lora::save::kohya(path, &expert, Some(&base), &BTreeMap::new()).unwrap();
}

#[test]
fn training_on_a_checkpoint_gives_the_lora_of_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let data = crate::images(dir.path());
    checkpoint("tiny-sdxl", &at("model.safetensors"));
    let train = |model: &Path, out: &Path| {
        let mut command = selma();
        command.args(["train", "--steps", "2", "--rank", "2", "--batch-size", "2", "--grad-accum", "1", "--quiet"]);
        command.arg("--model").arg(model).arg("--data").arg(&data).arg("--out").arg(out);
        command
    };
    let mut of_folder = train(&parity("models/tiny-sdxl"), &at("a"));
    of_folder.arg("--vocab").arg(parity("clip_vocab")).assert().success();
    train(&at("model.safetensors"), &at("b")).assert().success();
    // Their headers name different models.
    let tensors = |name: &str| selma::formats::digest::tensors(&at(name)).unwrap();
    assert_eq!(tensors("a/lora.safetensors"), tensors("b/lora.safetensors"));
    assert!(bytes(at("a/lora.safetensors")) != bytes(at("b/lora.safetensors")));
}

#[test]
fn the_prediction_can_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    checkpoint("tiny-sd1", &at("model.safetensors"));
    let draw = |more: &[&str]| pixels(draw(&at("model.safetensors"), &at("out")).args(more), &at("out"));
    let own = draw(&[]);
    assert!(own == draw(&["--prediction", "epsilon"]));
    assert!(own != draw(&["--prediction", "v_prediction"]));
}

#[test]
fn a_vae_in_a_file_replaces_the_models() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let sd1 = parity("models/tiny-sd1");
    let draw = |vae: &Path| {
        let mut command = draw(&sd1, &at("out"));
        pixels(command.arg("--vocab").arg(parity("clip_vocab")).arg("--vae").arg(vae), &at("out"))
    };
    let expected = draw(&parity("models/tiny-sd2/vae"));
    checkpoint("tiny-sd2", &at("model.safetensors"));
    assert!(draw(&at("model.safetensors")) == expected);
    // Alone it has no configuration, so only one of the published shape can be had; this one is told apart by name.
    let config = json_of(parity("models/tiny-sd2/vae/config.json"));
    let levels = config["block_out_channels"].as_array().unwrap().len();
    for prefix in ["", "vae.", "first_stage_model."] {
        let mut tensors = vae_to_ldm(tensors_of(&parity("models/tiny-sd2/vae")), levels, prefix);
        write(&at("vae.safetensors"), &tensors.clone().into_iter().collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
        let mut command = self::draw(&sd1, &at("none"));
        command.arg("--vocab").arg(parity("clip_vocab")).arg("--vae").arg(at("vae.safetensors"));
        let loaded = selma::nn::AutoencoderKl::load(&at("vae.safetensors/vae"), DType::F32);
        match config["norm_num_groups"].as_u64() {
            None | Some(32) => command.assert().success(),
            // Channels that 32 groups do not divide.
            _ => command.assert().code(1),
        };
        assert_eq!(loaded.is_ok(), matches!(config["norm_num_groups"].as_u64(), None | Some(32)));
        tensors.insert(format!("{prefix}decoder.unknown.weight"), Tensor::zeros(&[1], DType::F32));
        write(&at("vae.safetensors"), &tensors.into_iter().collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
        let message = selma::nn::AutoencoderKl::load(&at("vae.safetensors/vae"), DType::F32).err().unwrap().to_string();
        assert!(message.contains("decoder.unknown.weight"), "{message}");
    }
}

/// Published checkpoints without a VAE, VAEs in diffusers' names, and what training left in them.
#[test]
fn a_checkpoint_without_a_vae_takes_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    checkpoint("tiny-sd1", &at("model.safetensors"));
    let whole = Safetensors::open(&at("model.safetensors")).unwrap();
    let without = whole.names().filter(|name| !name.starts_with("first_stage_model."));
    let without: Vec<_> = without.map(|name| (name.to_owned(), whole.tensor(name).unwrap())).collect();
    write(&at("without.safetensors"), &without, whole.metadata()).unwrap();
    let vae = parity("models/tiny-sd1/vae");
    let draw = |model: &str| {
        let mut command = draw(&at(model), &at("out"));
        command.arg("--vae").arg(&vae);
        command
    };
    let expected = pixels(&mut draw("model.safetensors"), &at("out"));
    assert!(pixels(&mut draw("without.safetensors"), &at("out")) == expected);
    let data = crate::images(dir.path());
    let mut train = selma();
    train.args(["train", "--steps", "1", "--rank", "2", "--batch-size", "1", "--grad-accum", "1", "--quiet"]);
    train.arg("--model").arg(at("without.safetensors")).arg("--vae").arg(&vae);
    train.arg("--data").arg(&data).arg("--out").arg(at("trained")).assert().success();
}

#[test]
fn a_vae_in_diffusers_names_is_read_without_what_training_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vae.safetensors");
    let mut tensors = tensors_of(&parity("models/tiny-sd2/vae"));
    let names: Vec<String> = tensors.keys().cloned().collect();
    for left in ["loss.discriminator.main.0.weight", "loss.logvar", "model_ema.decay"] {
        tensors.insert(left.into(), Tensor::zeros(&[1], DType::F32));
    }
    write(&path, &tensors.into_iter().collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
    let component = selma::formats::component::Component::open(&path.join("vae")).unwrap();
    assert!(component.names().eq(names.iter().map(String::as_str)));
}

#[test]
fn what_is_in_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    checkpoint("tiny-sdxl", &file);
    let inspect = |json: &[&str]| {
        let output = selma().arg("inspect").arg(&file).args(json).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let summary: serde_json::Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    assert_eq!(summary["family"], "SDXL");
    assert_eq!(summary["unused"], serde_json::json!(["a_note_of_somebody"]));
    for component in ["unet", "vae", "text_encoder", "text_encoder_2"] {
        let tensors = tensors_of(&parity(&format!("models/tiny-sdxl/{component}")));
        let real = |name: &&String| !name.ends_with("position_ids");
        let found = &summary["components"][component];
        assert_eq!(found["tensors"], tensors.keys().filter(real).count(), "{component}");
        let values: usize = tensors.iter().filter(|(n, _)| real(n)).map(|(_, t)| t.len()).sum();
        assert_eq!(found["values"], values, "{component}");
        assert_eq!(found["types"].as_object().unwrap().values().next().unwrap(), values);
    }
    let text = inspect(&[]);
    assert!(text.contains("SDXL, a single-file checkpoint"), "{text}");
    assert!(text.contains("unused: a_note_of_somebody"), "{text}");
}
