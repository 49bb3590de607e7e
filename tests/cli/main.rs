//! The commands as a user types them, on the small recorded models and on images drawn here.

mod builtin;
mod checkpoint;
#[cfg(feature = "cuda")]
mod device;
mod encoding;
mod eval;
mod existing;
mod generate;
mod help;
mod kernels;
mod latents;
mod memory;
mod merge;
mod metrics;
mod model;
mod refusals;
mod resume;
mod session;
#[cfg(feature = "simulator")]
mod simulator;
mod train;

use std::path::{Path, PathBuf};

use assert_cmd::Command;

fn selma() -> Command {
    Command::cargo_bin("selma").unwrap()
}

fn parity(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(path)
}

/// Five images of different sizes with captions beside them.
fn images(dir: &Path) -> PathBuf {
    let data = dir.join("images");
    std::fs::create_dir(&data).unwrap();
    for i in 0..5u32 {
        let shade = |x: u32, y: u32| image::Rgb([(x * 5 + i * 40) as u8, (y * 4) as u8, (i * 50) as u8]);
        let image = image::RgbImage::from_fn(40 + i * 7, 50 - i * 3, shade);
        image.save(data.join(format!("{i}.png"))).unwrap();
        std::fs::write(data.join(format!("{i}.txt")), format!("image number {i}")).unwrap();
    }
    data
}

/// The PNG files of a folder, by name.
fn drawn(dir: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .collect();
    names.sort();
    names.into_iter().map(bytes).collect()
}

fn bytes(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs a command that must fail with `code` and name every one of `words`.
fn says(mut command: Command, code: i32, words: &[&str]) {
    let output = command.assert().code(code);
    let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
}
