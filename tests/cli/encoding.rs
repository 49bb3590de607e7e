//! What is encoded before the first step, and the images that are drawn on the way.

use std::path::{Path, PathBuf};

use crate::{bytes, images, train};

/// Every cache entry of a run, with whether it holds a text.
fn entries(out: &Path) -> Vec<(PathBuf, bool)> {
    let mut all = Vec::new();
    for folder in std::fs::read_dir(out.join("cache")).unwrap() {
        for entry in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            let is_text = selma::formats::safetensors::Safetensors::open(&path).unwrap().contains("context");
            all.push((path, is_text));
        }
    }
    all.sort();
    all
}

#[test]
fn every_crop_and_caption_is_encoded_once_and_broken_entries_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    let command = || {
        let mut command = train::train("tiny-sd1", &data, &out);
        command.args(["--crop", "center", "--caption-dropout", "0.5", "--steps", "20", "--save-every", "10"]);
        command
    };
    command().assert().success();
    let before = entries(&out);
    // Twenty steps of four samples show each of the five images both ways; the captions and the empty one.
    assert_eq!(before.iter().filter(|(_, is_text)| !is_text).count(), 10);
    assert_eq!(before.iter().filter(|(_, is_text)| *is_text).count(), 6);
    let expected = bytes(out.join("lora.safetensors"));
    std::fs::remove_file(out.join("state/step-00000020.safetensors")).unwrap();
    for (path, _) in &before[..8] {
        let sound = bytes(path.clone());
        std::fs::write(path, &sound[..sound.len() - 3]).unwrap();
    }
    std::fs::remove_file(&before[8].0).unwrap();
    command().arg("--resume").assert().success();
    assert!(expected == bytes(out.join("lora.safetensors")), "other latents were taken");
    assert_eq!(entries(&out), before);
}

#[test]
fn sample_images_show_what_was_learnt_and_come_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    for model in ["tiny-sd1", "tiny-sdxl"] {
        let out = dir.path().join(model);
        let command = || {
            let mut command = train::train(model, &data, &out);
            command.args(["--steps", "4", "--lr", "0.05", "--save-every", "1", "--sample-every", "2"]);
            command.args(["--sample-prompt", "a cat", "--sample-prompt", "a dog"]);
            command
        };
        command().assert().success();
        let image = |name: &str| bytes(out.join("samples").join(name));
        let names = ["step-00000002-0.png", "step-00000002-1.png", "step-00000004-0.png", "step-00000004-1.png"];
        let first = names.map(image);
        assert!(first[0] != first[1], "{model}: both prompts give one image");
        assert!(first[0] != first[2], "{model}: training changed nothing");
        for name in ["samples/step-00000004-0.png", "state/step-00000004.safetensors"] {
            std::fs::remove_file(out.join(name)).unwrap();
        }
        command().arg("--resume").assert().success();
        assert!(first == names.map(image), "{model}: a resumed run draws other images");
    }
    let plain = train::train("tiny-sd1", &data, &dir.path().join("none"))
        .args(["--steps", "1", "--sample-every", "1"])
        .assert()
        .code(2);
    assert!(String::from_utf8_lossy(&plain.get_output().stderr).contains("sample-prompt"));
}
