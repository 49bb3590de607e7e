//! Sample images with settings of their own: what is drawn, and what is said of it.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};

use crate::{bytes, images, parity, said, train};

/// kohya's lines; the same as records are in [`RECORDS`].
const LINES: &str = "# a comment\na red cat --n blurry, <dark> --d 7 --s 3 --l 2.5 --w 32 --h 48\n\nimage number 1\n";
const RECORDS: &str = r#"{"prompt": "a red cat", "negative": "blurry, <dark>", "seed": 7, "steps": 3, "guidance": 2.5, "width": 32, "height": 48, "category": "pets"}
{"text": "image number 1", "scheduler": "dpm2-a-karras", "steps": 2}
"#;

const RUN: [&str; 8] = ["--steps", "4", "--save-every", "2", "--sample-every", "2", "--lr", "0.05"];

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn rows(out: &Path) -> Vec<Value> {
    let text = String::from_utf8(bytes(out.join("samples/metadata.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn pixels(path: PathBuf) -> (u32, u32, Vec<u8>) {
    let image = image::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).to_rgb8();
    (image.width(), image.height(), image.into_raw())
}

#[test]
fn samples_have_settings_of_their_own_and_say_them() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let (lines, records) = (file(dir.path(), "p.txt", LINES), file(dir.path(), "p.jsonl", RECORDS));
    let run = |out: &str, more: &[&str]| {
        let out = dir.path().join(out);
        let notes = said(train(&data, &out, &[&RUN, more].concat()));
        (out, notes)
    };
    let (of_lines, notes) = run("lines", &["--sample-prompts", &lines, "--sample-prompt", "a (cat:1.3)"]);
    assert!(notes.contains("sample prompts have marks"), "{notes}");
    let (of_records, _) = run("records", &["--sample-prompts", &records]);
    for step in [2, 4] {
        let name = |i: usize| format!("samples/step-{step:08}-{i}.png");
        let [a, b] = [&of_lines, &of_records].map(|out| pixels(out.join(name(0))));
        assert!((a.0, a.1) == (32, 48) && a == b, "the same settings give other images");
        // The other sampler.
        assert!(pixels(of_lines.join(name(1))) != pixels(of_records.join(name(1))));
        assert!(of_lines.join(name(2)).exists() && !of_records.join(name(2)).exists());
    }
    let expected = json!({
        "file_name": "step-00000002-0.png", "text": "a red cat", "seed": 7, "index": 0, "negative": "blurry, <dark>",
        "steps": 3, "guidance": 2.5, "width": 32, "height": 48, "scheduler": "PNDMScheduler", "category": "pets", "step": 2,
    });
    let of_records = rows(&of_records);
    assert_eq!(of_records.len(), 4);
    let mut first = of_records[0].clone();
    // Whatever the model has.
    first["scheduler"] = "PNDMScheduler".into();
    assert_eq!(first, expected);
    assert_eq!(of_records[1]["scheduler"], "dpm2-a-karras");
    let steps: Vec<u64> = rows(&of_lines).iter().map(|row| row["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 2, 2, 4, 4, 4]);
    let shared = &rows(&of_lines)[1];
    assert_eq!((&shared["seed"], &shared["steps"], &shared["guidance"]), (&json!(42), &json!(25), &json!(7.5)));
    let text = selma::formats::png::parameters(&bytes(of_lines.join("samples/step-00000004-0.png"))).unwrap();
    assert!(text.starts_with("a red cat\nNegative prompt: blurry, <dark>\nSteps: 3, "), "{text}");
    for part in ["CFG scale: 2.5, Size: 32x48", "Lora in training: lora, Training step: 4", "Seed: 7, Index: 0"] {
        assert!(text.contains(part), "{text}");
    }
}

/// The LoRA that is saved is the one that is drawn with: of a run with an average, that average.
#[test]
fn samples_are_what_generate_draws_with_the_saved_lora() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let prompts = file(dir.path(), "p.jsonl", RECORDS);
    for (name, more) in [
        ("plain", &["--lr", "0.05"][..]),
        ("average", &["--lr", "0.05", "--ema", "0.9"]),
        ("free", &["--lr", "0.05", "--optimizer", "schedule-free"]),
        ("texts", &["--lr", "0.05", "--train-text-encoder"]),
    ] {
        let out = dir.path().join(name);
        let run = ["--steps", "4", "--save-every", "2", "--sample-every", "2", "--sample-prompts", &prompts];
        train(&data, &out, &[&run, more].concat()).assert().success();
        let draw = |lora: Option<&str>, to: &str| {
            let to = out.join(to);
            let mut command = Command::cargo_bin("selma").unwrap();
            command.arg("generate").arg("--prompts").arg(&prompts).args(["--seed", "42", "--quiet"]);
            command.arg("--model").arg(parity("models/tiny-sd1")).arg("--vocab").arg(parity("clip_vocab"));
            if let Some(lora) = lora {
                command.arg("--lora").arg(out.join(lora));
            }
            command.arg("--out").arg(&to).assert().success();
            [0, 1].map(|i| pixels(to.join(format!("{i:05}.png"))))
        };
        let distance = |a: &[u8], b: &[u8]| {
            let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
            sum / a.len() as f64
        };
        let (with, without) = (draw(Some("lora-00000002.safetensors"), "with"), draw(None, "without"));
        for (i, (with, without)) in with.iter().zip(&without).enumerate() {
            let sample = pixels(out.join(format!("samples/step-00000002-{i}.png")));
            assert_eq!((sample.0, sample.1), (with.0, with.1));
            let (near, far) = (distance(&sample.2, &with.2), distance(&sample.2, &without.2));
            // Sums of f32 in another order: hardly a value is rounded to another one of 256.
            assert!(near < 0.05 && far > 20.0 * near.max(0.01), "{name}, image {i}: {near} and {far}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_sample_prompt_is_said_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    for (name, text, parts) in [
        ("seed.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\", \"seed\": \"red\"}\n", ["prompt 2", "`seed`"]),
        ("size.txt", "a cat --w 33", ["prompt 1", "--width 33"]),
        ("steps.txt", "a cat --s 0", ["prompt 1", "--steps 0"]),
        ("guidance.txt", "a cat --l -1", ["prompt 1", "--guidance -1"]),
        ("sampler.jsonl", "{\"text\": \"a\", \"scheduler\": \"best\"}", ["prompt 1", "best"]),
        ("line.txt", "a cat --s many", ["line 1", "--s many"]),
        ("empty.txt", "# nothing\n", ["no prompt", "empty.txt"]),
    ] {
        let path = file(dir.path(), name, text);
        refused(&data, &dir.path().join("out"), &path, &[name, parts[0], parts[1]]);
    }
    refused(&data, &dir.path().join("out"), "/nowhere/p.txt", &["/nowhere/p.txt", "--sample-prompts"]);
    assert!(!dir.path().join("out").exists());
}

fn refused(data: &Path, out: &Path, prompts: &str, parts: &[&str]) {
    let mut command = train(data, out, &RUN);
    let output = command.args(["--sample-prompts", prompts]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
}

#[test]
fn long_sample_prompts_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let long = "cat ".repeat(100);
    let prompts = file(dir.path(), "p.txt", &format!("{long}\na cat --n {long}\na cat\n"));
    let arguments = ["--steps", "1", "--sample-every", "1", "--sample-prompts", &prompts, "--dry-run"];
    let notes = said(train(&data, &dir.path().join("out"), &arguments));
    assert!(notes.contains("2 of 3 sample prompts have more than 75 tokens"), "{notes}");
}
