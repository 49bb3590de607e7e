//! LoRA layers of text encoders: trained, saved, resumed, planned, and used.

use std::path::Path;

use assert_cmd::Command;

use crate::{bytes, images, parity, said, train};

const SD1: &str = "models/tiny-sd1";
const TEXT: [&str; 2] = ["--train-text-encoder", "--text-encoder-lr=0.01"];

/// The largest value of the change in each network, by its name.
fn changes(path: &Path, model: &str) -> Vec<(String, f32)> {
    let base = selma::lora::base::modules(&parity(model)).unwrap();
    let expert = selma::lora::load(path, Some(&base), false).unwrap().expert;
    let of = |(name, modules): (&String, &std::collections::BTreeMap<String, selma::lora::LoraFactors>)| {
        let largest = |layer: &selma::lora::LoraFactors| {
            layer.delta().data::<f32>().iter().fold(0.0_f32, |largest, x| largest.max(x.abs()))
        };
        (name.clone(), modules.values().map(largest).fold(0.0, f32::max))
    };
    expert.components.iter().map(of).collect()
}

/// `selma train` on the small SDXL model.
fn train_xl(data: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.args(["train", "--rank", "2", "--targets", "to_q", "--batch-size", "1", "--grad-accum", "1"]);
    command.arg("--model").arg(parity("models/tiny-sdxl")).arg("--vocab").arg(parity("clip_vocab"));
    command.arg("--data").arg(data).arg("--out").arg(out).args(arguments);
    command
}

#[test]
fn text_encoders_learn_and_resume_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let at = |name: &str| dir.path().join(name);
    for (precision, threads) in [("f32", "2"), ("bf16", "1"), ("f16", "2")] {
        let (whole, broken) = (at(&format!("{precision}-whole")), at(&format!("{precision}-broken")));
        let settings = ["--steps", "4", "--save-every", "2", "--ema", "0.5", "--precision", precision];
        train(&data, &whole, &settings).args(TEXT).args(["--threads", threads]).assert().success();
        train(&data, &broken, &settings).args(TEXT).assert().success();
        std::fs::remove_file(broken.join("state/step-00000004.safetensors")).unwrap();
        train(&data, &broken, &settings).args(TEXT).arg("--resume").assert().success();
        for file in ["lora.safetensors", "metrics.jsonl", "state/step-00000004.safetensors"] {
            assert!(bytes(whole.join(file)) == bytes(broken.join(file)), "{precision}: {file} differs");
        }
        let [lora, state] =
            ["lora.safetensors", "state/step-00000004.safetensors"].map(|file| changes(&whole.join(file), SD1));
        assert_eq!(lora.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["text_encoder", "unet"]);
        assert!(lora.iter().all(|(_, change)| *change > 1e-6), "{lora:?}");
        assert_eq!(lora, state);
    }
    train(&data, &at("unet"), &["--steps", "4"]).assert().success();
    assert_eq!(changes(&at("unet/lora.safetensors"), SD1).len(), 1);
}

#[test]
fn both_text_encoders_of_sdxl_learn() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    let mut command = train_xl(&data, &out, &["--steps", "2", "--format", "kohya", "--resolution", "16"]);
    let notes = said({
        command.args(TEXT).args(["--text-encoder-targets", "all-linear", "--caption-dropout", "0.5"]);
        command
    });
    assert!(notes.contains("captions are encoded anew at every step"), "{notes}");
    let lora = out.join("lora.safetensors");
    let file = selma::formats::safetensors::Safetensors::open(&lora).unwrap();
    let names: Vec<&str> = file.names().collect();
    for start in
        ["lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te2_text_model_encoder_layers_2_self_attn_q_proj"]
    {
        assert!(names.iter().any(|name| name.starts_with(start)), "{start}: {names:?}");
    }
    // The states before the last layer of the first encoder are taken: nothing reads that layer.
    assert!(!names.iter().any(|name| name.starts_with("lora_te1_text_model_encoder_layers_2")));
    let rate = file.metadata().get("ss_text_encoder_lr").map(String::as_str);
    assert_eq!(rate, Some("0.01"));
    let changed = changes(&lora, "models/tiny-sdxl");
    assert_eq!(changed.len(), 3);
    assert!(changed.iter().all(|(_, change)| *change > 1e-6), "{changed:?}");

    let mut inspect = Command::cargo_bin("selma").unwrap();
    let shown = inspect.arg("inspect").arg(&lora).assert().success();
    let shown = String::from_utf8_lossy(&shown.get_output().stdout).into_owned();
    assert!(shown.contains("text_encoder_2"), "{shown}");
}

/// to_q alone is the same in SD and SDXL: the model says which it is.
#[test]
fn a_lora_says_the_family_of_its_model() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let metadata = |mut command: Command, out: &str| {
        command.assert().success();
        let lora = dir.path().join(out).join("lora.safetensors");
        selma::formats::safetensors::Safetensors::open(&lora).unwrap().metadata().clone()
    };
    let xl = train_xl(&data, &dir.path().join("xl"), &["--steps", "1", "--resolution", "16"]);
    let xl = metadata(xl, "xl");
    assert_eq!(xl["modelspec.architecture"], "stable-diffusion-xl-v1-base/lora");
    assert_eq!((xl["modelspec.title"].as_str(), xl["ss_base_model_version"].as_str()), ("lora", "sdxl_base_v1-0"));
    // The small model is of no published family: no architecture is made up.
    let other = metadata(train(&data, &dir.path().join("sd"), &["--steps", "1"]), "sd");
    assert_eq!(other["modelspec.title"], "lora");
    assert!(!other.contains_key("modelspec.architecture") && !other.contains_key("modelspec.sai_model_spec"));
}

#[test]
fn what_a_text_encoder_learnt_is_drawn_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let at = |name: &str| dir.path().join(name);
    let settings = ["--steps", "3", "--sample-every", "3", "--sample-prompt", "an image", "--lr", "1e-30"];
    train(&data, &at("text"), &settings).args(["--train-text-encoder", "--text-encoder-lr", "1"]).assert().success();
    train(&data, &at("plain"), &settings).assert().success();
    // The UNet did not move: what differs is what the text encoder makes of the prompt.
    let sample = |run: &str| bytes(at(run).join("samples/step-00000003-0.png"));
    assert!(sample("text") != sample("plain"));

    let draw = |lora: &Path, out: &str| {
        let mut command = Command::cargo_bin("selma").unwrap();
        command.args(["generate", "--prompt", "an image", "--steps", "2", "--width", "32", "--height", "32"]);
        command.arg("--model").arg(parity("models/tiny-sd1")).arg("--vocab").arg(parity("clip_vocab"));
        command.arg("--lora").arg(lora).arg("--out").arg(at(out)).assert().success();
        let mut drawn: Vec<_> = std::fs::read_dir(at(out)).unwrap().map(|entry| entry.unwrap().path()).collect();
        drawn.retain(|path| path.extension().is_some_and(|ending| ending == "png"));
        bytes(drawn.pop().expect("an image"))
    };
    let lora = at("text").join("lora.safetensors");
    assert!(draw(&lora, "drawn") != draw(&at("plain").join("lora.safetensors"), "drawn-plain"));
    let merged = at("merged.safetensors");
    let mut merge = Command::cargo_bin("selma").unwrap();
    merge.arg("merge").arg("--lora").arg(&lora).arg("--lora").arg(&lora).arg("--out").arg(&merged).assert().success();
    let [one, both] = [&lora, &merged].map(|path| changes(path, SD1));
    for ((name, one), (_, both)) in one.iter().zip(&both) {
        assert!((one - both).abs() <= 1e-5 * one, "{name}: {one} and {both}");
    }
}

#[test]
fn text_encoders_are_planned_and_refused_where_they_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let plan = |arguments: &[&str]| said(train(&data, &dir.path().join("out"), arguments));
    let plan_of = |arguments: &[&str]| plan(&[arguments, &["--steps", "1", "--dry-run"]].concat());
    let (plain, text) = (plan_of(&[]), plan_of(&["--train-text-encoder"]));
    assert!(!plain.contains("kept for the text encoders") && text.contains("kept for the text encoders"), "{text}");
    let refused = |arguments: &[&str], message: &str| {
        let output = train(&data, &dir.path().join("out"), arguments).assert().code(2);
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(said.contains(message), "{said}");
    };
    refused(&["--text-encoder-lr", "1e-4"], "give --train-text-encoder too");
    refused(&["--train-text-encoder", "--text-encoder-targets", "q_prj"], "q_proj");
    refused(&["--train-text-encoder", "--class-token", "<x>"], "--train-text-encoder");
}
