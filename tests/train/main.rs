//! Settings, schedules, records and results of training runs, from the outside.

mod config;
mod data;
mod dora;
mod dry;
mod goes_on;
mod killed;
mod losses;
mod rates;
mod records;
mod report;
mod samples;
mod saved;
mod schedule;
mod texts;
mod token_gradients;

use std::path::{Path, PathBuf};

use assert_cmd::Command;

/// The message of an error.
fn message<T: std::fmt::Debug>(result: selma::Result<T>) -> String {
    result.expect_err("an error").to_string()
}

fn parity(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(path)
}

/// Three images with captions beside them.
fn images(dir: &Path) -> PathBuf {
    let data = dir.join("images");
    std::fs::create_dir(&data).unwrap();
    for i in 0..3u32 {
        let shade = |x: u32, y: u32| image::Rgb([(x * 5 + i * 40) as u8, (y * 4) as u8, (i * 50) as u8]);
        image::RgbImage::from_fn(40 + i * 7, 50 - i * 3, shade).save(data.join(format!("{i}.png"))).unwrap();
        std::fs::write(data.join(format!("{i}.txt")), format!("image number {i}")).unwrap();
    }
    data
}

/// `selma train` on a small model: rank 2 of `to_q`, a sample a step.
fn train(data: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.args(["train", "--rank", "2", "--targets", "to_q", "--batch-size", "1", "--grad-accum", "1"]);
    command.arg("--model").arg(parity("models/tiny-sd1")).arg("--vocab").arg(parity("clip_vocab"));
    command.arg("--data").arg(data).arg("--out").arg(out).args(arguments);
    command
}

/// What a command that succeeds says on stderr.
fn said(mut command: Command) -> String {
    let output = command.assert().success();
    String::from_utf8_lossy(&output.get_output().stderr).into_owned()
}

fn bytes(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The names of a folder's safetensors files.
fn weights(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    names.sort();
    names
}

/// The f32 values of a LoRA or a state: (module, scaled product of its factors).
fn deltas(path: &Path) -> Vec<(String, Vec<f32>)> {
    let loaded = selma::lora::load(path, None, false).unwrap();
    let delta = |(_, module, layer): (&str, &str, &selma::lora::LoraFactors)| {
        (module.to_owned(), layer.delta().data::<f32>().to_vec())
    };
    loaded.expert.iter().map(delta).collect()
}
