//! `--model shapes`, the model inside the binary, in every command that takes a model.

use std::path::Path;

use assert_cmd::Command;
use serde_json::json;

use crate::{bytes, images, selma};

/// With a cache of its own.
fn with_cache(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = selma();
    command.env("XDG_CACHE_HOME", cache).args(arguments).arg("--quiet");
    command
}

#[test]
fn the_built_in_model_is_trained_drawn_with_and_merged_into() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let data = images(dir.path()).display().to_string();
    let run = |arguments: &[&str]| {
        with_cache(dir.path(), arguments).assert().success();
    };
    let train = ["train", "--model", "shapes", "--data", &data, "--out", &path("expert")];
    let few = ["--rank", "2", "--steps", "1", "--batch-size", "1", "--grad-accum", "1"];
    run(&[&train[..], &few[..]].concat());
    let lora = path("expert/lora.safetensors");

    let draw = |model: &str, out: &str, more: &[&str]| {
        let command = ["generate", "--model", model, "--prompt", "a red circle", "--steps", "2"];
        run(&[&command[..], &["--out", out], more].concat());
        image::open(Path::new(out).join("00000.png")).unwrap().into_rgb8()
    };
    let plain = draw("shapes", &path("plain"), &[]);
    assert_eq!(plain.dimensions(), (64, 64));
    draw("shapes", &path("adapted"), &["--lora", &lora]);

    run(&["merge", "--lora", &lora, "--lora", &lora, "--model", "shapes", "--out", &path("two.safetensors")]);
    run(&["merge", "--lora", &lora, "--into", "shapes", "--out", &path("baked")]);
    draw(&path("baked"), &path("from-baked"), &[]);
    run(&["inspect", &lora]);

    // It is unpacked once: the same files serve every command.
    let unpacked: Vec<_> = std::fs::read_dir(dir.path().join("selma")).unwrap().collect();
    assert_eq!(unpacked.len(), 1);
    let folder = unpacked[0].as_ref().unwrap().path().join("shapes");
    assert!(bytes(folder.join("model_index.json")).starts_with(b"{"));
}

#[test]
fn a_model_is_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let summary = |arguments: &[&str]| -> serde_json::Value {
        let output = with_cache(dir.path(), arguments).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let shapes = summary(&["inspect", "--model", "shapes"]);
    assert_eq!((&shapes["side"], &shapes["prediction"]), (&json!(64), &json!("v_prediction")));
    let folder = crate::parity("models/tiny-sdxl").display().to_string();
    let xl = summary(&["inspect", &folder]);
    assert_eq!((&xl["family"], &xl["scheduler"]), (&json!("SDXL"), &json!("EulerDiscreteScheduler")));
    let names: Vec<&String> = xl["components"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["text_encoder", "text_encoder_2", "unet", "vae"]);
    // As many values as the file has bytes for.
    let weights = crate::parity("models/tiny-sdxl/unet/diffusion_pytorch_model.safetensors");
    let (unet, bytes) = (&xl["components"]["unet"], std::fs::metadata(weights).unwrap().len());
    let stored = unet["types"].as_object().unwrap();
    let width = |name: &str| if name == "F32" { 4 } else { 2 };
    let values: u64 = stored.iter().map(|(name, count)| width(name) * count.as_u64().unwrap()).sum();
    assert!(values < bytes && values > bytes * 9 / 10, "{unet} in {bytes} bytes");
    let command = with_cache(dir.path(), &["inspect", &folder]).assert().success();
    let text = String::from_utf8_lossy(&command.get_output().stdout).into_owned();
    assert!(text.contains("text_encoder_2: ") && text.contains("EulerDiscreteScheduler"), "{text}");
    crate::says(with_cache(dir.path(), &["inspect"]), 2, &["--model"]);
    let empty = dir.path().display().to_string();
    crate::says(with_cache(dir.path(), &["inspect", "--model", &empty]), 1, &["no model_index.json"]);
}

#[test]
fn without_a_place_to_unpack_it_the_message_says_what_to_set() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out").display().to_string();
    let mut command = with_cache(dir.path(), &["generate", "--model", "shapes", "--prompt", "x", "--out", &out]);
    command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    crate::says(command, 1, &["HOME", "XDG_CACHE_HOME"]);
}
