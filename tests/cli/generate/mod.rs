//! `selma generate`: what decides an image, what is written beside it, and going on after a stop.

mod existing;
mod grid;
mod model;
mod own_settings;
mod prompts;
mod settings;
mod webui;

use std::path::{Path, PathBuf};

use assert_cmd::Command;

use crate::{bytes, parity, selma};

/// A command that draws in two steps with tiny-sd1.
fn generate(out: &Path) -> Command {
    draw_with("tiny-sd1", "2", out)
}

fn draw_with(model: &str, steps: &str, out: &Path) -> Command {
    let mut command = selma();
    command.args(["generate", "--steps", steps, "--quiet"]);
    command.arg("--model").arg(parity(&format!("models/{model}")));
    command.arg("--vocab").arg(parity("clip_vocab")).arg("--out").arg(out);
    command
}

fn pixels(png: &[u8]) -> Vec<u8> {
    image::load_from_memory(png).unwrap().into_rgb8().into_raw()
}

/// The one image of a command, its pixels only: texts differ where settings do.
fn one(command: &mut Command, out: &Path) -> Vec<u8> {
    command.arg("--overwrite").assert().success();
    pixels(&bytes(out.join("00000.png")))
}

fn refuses(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
}

const PROMPTS: &str = "a cat\ntwo dogs\n\na red house by the sea\n";

fn prompt_file(dir: &Path) -> PathBuf {
    let path = dir.join("prompts.txt");
    std::fs::write(&path, PROMPTS).unwrap();
    path
}
