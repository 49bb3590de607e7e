//! Files that are damaged, hostile, or of another kind than was asked for, through the binary where a user meets them:
//! an error that names the file and says what is wrong, exit status 1 or 2, nothing half-written, never a panic.

mod containers;
mod datasets;
mod loras;
mod models;
mod outputs;
mod pickles;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use selma::formats::safetensors;
use selma::tensor::Tensor;

fn selma() -> Command {
    Command::cargo_bin("selma").unwrap()
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(path)
}

fn model(name: &str) -> PathBuf {
    fixture("models").join(name)
}

/// Runs a command that must fail with `code` and say every one of `words`, in a last line that is not a panic's.
fn refuses(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{text}");
    assert!(!text.contains("panicked"), "{command:?}\n{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

/// `selma generate` of one small image.
fn generate(model: &Path, out: &Path) -> Command {
    let mut command = selma();
    command.args(["generate", "--prompt", "a cat", "--steps", "1", "--quiet", "--overwrite"]);
    command.arg("--model").arg(model).arg("--vocab").arg(fixture("clip_vocab"));
    command.arg("--out").arg(out);
    command
}

/// `selma train` of one step.
fn train(model: &Path, data: &Path, out: &Path) -> Command {
    let mut command = selma();
    command.args(["train", "--rank", "2", "--batch-size", "1", "--grad-accum", "1"]);
    command.args(["--steps", "1", "--quiet"]);
    command.arg("--model").arg(model).arg("--vocab").arg(fixture("clip_vocab"));
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

/// A copy of a model folder that a test may change.
fn copied(name: &str, to: &Path) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            match path.is_dir() {
                true => copy(&path, &target),
                false => drop(std::fs::copy(&path, &target).unwrap()),
            }
        }
    }
    let folder = to.join(name);
    copy(&model(name), &folder);
    folder
}

/// Changes one value of a JSON file.
fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// A LoRA of tiny-sd1 with one module, and what `change` makes of its tensors.
fn lora(path: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    const MODULE: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let weights = model("tiny-sd1").join("unet/diffusion_pytorch_model.safetensors");
    let weights = safetensors::Safetensors::open(&weights).unwrap();
    let name = format!("{}.weight", MODULE.trim_start_matches("unet."));
    let [outputs, inputs] = weights.shape(&name).unwrap().try_into().unwrap();
    let factor = |shape: &[usize]| {
        let len = shape.iter().product::<usize>();
        Tensor::new((0..len).map(|i| (i as f32).sin() * 0.1).collect::<Vec<_>>(), shape)
    };
    let mut tensors = BTreeMap::from([
        (format!("{MODULE}.lora_A.weight"), factor(&[2, inputs])),
        (format!("{MODULE}.lora_B.weight"), factor(&[outputs, 2])),
    ]);
    change(&mut tensors);
    let tensors: Vec<_> = tensors.into_iter().collect();
    safetensors::write(path, &tensors, &BTreeMap::new()).unwrap();
}

/// Every name under `dir`, to see that a refused command left nothing behind.
fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}
