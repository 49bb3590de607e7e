//! `--model shapes`, the model inside the binary, in every command that takes a model.

use std::path::Path;

use assert_cmd::Command;

use crate::{bytes, pictures, selma};

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
    let data = pictures(dir.path()).display().to_string();
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

    run(&[
        "merge",
        "--lora",
        &lora,
        "--lora",
        &lora,
        "--model",
        "shapes",
        "--out",
        &path("two.safetensors"),
    ]);
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
fn without_a_place_to_unpack_it_the_message_says_what_to_set() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out").display().to_string();
    let mut command = with_cache(
        dir.path(),
        &["generate", "--model", "shapes", "--prompt", "x", "--out", &out],
    );
    command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    crate::says(command, 1, &["HOME", "XDG_CACHE_HOME"]);
}
