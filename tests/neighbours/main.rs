//! The neighbouring systems' commands as a user types them, on the built-in model.

mod chat;
mod families;
mod gate;
mod judged;
mod kills;
mod missing;
mod mix;
mod paragraph;
mod regenerate;
#[allow(dead_code)]
#[path = "../prompting/server.rs"]
mod server;
#[cfg(feature = "simulator")]
mod simulator;
mod spatial;
mod tokens;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use assert_cmd::Command;
use selma::formats::safetensors::{self, Safetensors};
use selma::shapes::scene::lay_out;
use selma::shapes::{Skill, Split, render, rng};
use selma::tensor::Tensor;

/// With a cache of its own, in the folder of a test.
fn selma(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.current_dir(dir).env("XDG_CACHE_HOME", dir.join(".cache")).env_remove("OPENAI_API_KEY").arg("--quiet");
    command
}

/// A command that must succeed; its stdout.
fn run(dir: &Path, arguments: &[&str]) -> String {
    let output = selma(dir).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A command that must fail with `code` and name every one of `words`.
fn says(dir: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let output = selma(dir).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
}

/// Starts a command with --json, waits until a line of its stdout holds `until`, and kills it.
fn killed(dir: &Path, arguments: &[&str], until: &str) {
    use std::io::BufRead;
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("selma"));
    command.current_dir(dir).env("XDG_CACHE_HOME", dir.join(".cache")).args(["--quiet", "--json"]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines.map_while(Result::ok).any(|line| line.contains(until));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(found && status.code().is_none(), "it ended before it could be killed: {status}");
}

/// Images of the built-in world with captions, in `dir/name`.
fn photos(dir: &Path, name: &str, skill: Skill, count: u64) -> PathBuf {
    let folder = dir.join(name);
    std::fs::create_dir(&folder).unwrap();
    for index in 0..count {
        let prompt = skill.prompt(Split::Train, 7, index);
        let mut draw = rng::Rng::of_caption(7, index);
        let image = render(&lay_out(&prompt.description, &mut draw).unwrap());
        image.save(folder.join(format!("{index:03}.png"))).unwrap();
        std::fs::write(folder.join(format!("{index:03}.txt")), &prompt.caption).unwrap();
    }
    folder
}

/// A tiny CLIP with random weights, in `dir/clip`. Its file in the fixtures has only the token rows that recorded cases use;
/// the others are zeros here.
fn clip(dir: &Path) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/models/judge-clip-b");
    let to = dir.join("clip");
    std::fs::create_dir(&to).unwrap();
    for name in ["config.json", "preprocessor_config.json"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let file = Safetensors::open(&from.join("model.compact")).unwrap();
    let mut tensors = Vec::new();
    for name in file.names().filter(|name| !name.starts_with("rows of ")) {
        let tensor = file.tensor(name).unwrap();
        let rows = format!("rows of {name}");
        if !file.contains(&rows) {
            tensors.push((name.to_owned(), tensor));
            continue;
        }
        let (width, places) = (tensor.shape()[1], file.tensor(&rows).unwrap());
        let (count, places) = places.data::<i64>().split_first().unwrap();
        let mut values = vec![0.0f32; *count as usize * width];
        for (place, row) in places.iter().zip(tensor.reals::<f32>().chunks_exact(width)) {
            values[*place as usize * width..][..width].copy_from_slice(row);
        }
        tensors.push((name.to_owned(), Tensor::new(values, &[*count as usize, width])));
    }
    safetensors::write(&to.join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    to.display().to_string()
}

/// The pixels of the PNG files of a folder, by name.
fn pixels(dir: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "png")).collect();
    paths.sort();
    paths.iter().map(|path| image::open(path).unwrap().into_rgb8().into_raw()).collect()
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
