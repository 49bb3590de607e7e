//! A result that is there is replaced only on demand, whatever the command.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{bytes, parity, says, selma};

/// The command is refused and leaves what is there alone; with --overwrite it replaces it.
fn is_guarded(arguments: &[&str], out: &Path, file: &Path) {
    let command = || {
        let mut command = selma();
        command.args(arguments).arg("--quiet").arg("--out").arg(out);
        command
    };
    command().assert().success();
    let result = bytes(file.into());
    std::fs::write(file, "precious").unwrap();
    says(command(), 1, &[out.to_str().unwrap(), "--overwrite"]);
    assert_eq!(bytes(file.into()), b"precious", "{arguments:?}");
    if file != out {
        // A list that is damaged says nothing of what may go.
        std::fs::write(file, &result).unwrap();
    }
    command().arg("--overwrite").assert().success();
    assert!(bytes(file.into()) == result, "{arguments:?}");
}

/// Two images of a circle with their prompts.
fn images(dir: &Path) -> PathBuf {
    let images = dir.join("images");
    std::fs::create_dir(&images).unwrap();
    let rows = [0, 1].map(|index: u8| {
        let name = format!("{index}.png");
        image::RgbImage::from_pixel(64, 64, image::Rgb([index, 9, 9])).save(images.join(&name)).unwrap();
        format!("{}\n", json!({"file_name": name, "text": "a red circle", "seed": 1, "index": index}))
    });
    std::fs::write(images.join("metadata.jsonl"), rows.concat()).unwrap();
    images
}

#[test]
fn results_of_every_command_are_replaced_only_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let lora = parity("cases/sample_sd1_lora/lora.safetensors").display().to_string();
    let images = images(dir.path()).display().to_string();
    let is_guarded = |arguments: &[&str], name: &str| is_guarded(arguments, &at(name), &at(name));
    is_guarded(&["merge", "--lora", &lora, "--lora", &lora], "merged.safetensors");
    is_guarded(&["convert", &lora, "--to", "diffusers"], "converted.safetensors");
    is_guarded(&["prompts", "--skill", "counting", "--writer", "builtin", "--count", "3"], "prompts.json");
    std::fs::write(at("captions.txt"), "a red circle\n").unwrap();
    let captions = at("captions.txt").display().to_string();
    is_guarded(&["questions", "--prompts", &captions, "--writer", "builtin"], "questions.csv");
    is_guarded(&["eval", "--benchmark", "shapes", "--judge", "builtin", "--images", &images], "scores.json");
    let scores = at("scores.json").display().to_string();
    let select = ["select", "--images", &images, "--by", &scores, "--rule", "best-of:2"];
    self::is_guarded(&select, &at("selected"), &at("selected/metadata.jsonl"));
}

/// `selma train` replaces nothing either: a result whose states are gone, another page, settings that somebody wrote.
#[test]
fn a_training_run_replaces_nothing_of_somebody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let data = crate::images(dir.path());
    let out = dir.path().join("out");
    let train = || crate::train::train("tiny-sd1", &data, &out);
    let run = || {
        let mut command = train();
        command.args(["--steps", "1"]);
        command
    };
    std::fs::create_dir(&out).unwrap();
    for (name, text, words) in [
        ("lora.safetensors", "precious", "no state to go on from"),
        ("report.html", "<title>selma: report</title>", "not the report of a training run"),
        ("config.toml", "# mine\nrank = 4\n", "would be replaced"),
        ("config.toml", "oops", "would be replaced"),
    ] {
        let path = out.join(name);
        std::fs::write(&path, text).unwrap();
        says(run(), 1, &[path.to_str().unwrap(), words, "--out"]);
        let mut resumed = run();
        resumed.arg("--resume");
        says(resumed, 1, &[path.to_str().unwrap(), words]);
        assert_eq!(bytes(path.clone()), text.as_bytes());
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    run().assert().success();
    // What a run leaves before its first state is its own.
    std::fs::remove_dir_all(out.join("state")).unwrap();
    std::fs::remove_file(out.join("lora.safetensors")).unwrap();
    run().assert().success();
    std::fs::remove_dir_all(out.join("state")).unwrap();
    says(run(), 1, &["lora.safetensors", "no state to go on from"]);
}
