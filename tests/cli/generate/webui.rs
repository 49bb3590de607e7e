//! `--prompt-syntax webui`.

use std::path::{Path, PathBuf};

use selma::formats::png;

use super::{generate, one, pixels, refuses};
use crate::{bytes, parity};

/// A folder with two LoRAs of different strengths of one.
fn loras(dir: &Path) -> PathBuf {
    let folder = dir.join("loras");
    std::fs::create_dir_all(folder.join("more")).unwrap();
    let from = parity("cases/sample_sd1_lora/lora.safetensors");
    std::fs::copy(&from, folder.join("more/style.safetensors")).unwrap();
    folder
}

fn rows(out: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join("metadata.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn weights_mean_something_and_plain_text_says_that_it_has_marks() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let draw = |prompt: &str, syntax: &str| {
        let mut command = generate(&out);
        one(command.args(["--prompt", prompt, "--prompt-syntax", syntax]), &out)
    };
    let plain = draw("a red cat", "plain");
    assert!(plain == draw("a red cat", "webui"));
    assert!(plain == draw("a (red:1.0) cat", "webui"));
    assert!(plain != draw("a (red:1.5) cat", "webui"));
    let mut command = generate(&out);
    command.args(["--overwrite", "--prompt", "a (red:1.5) cat", "--negative", "((bad))"]);
    let output = command.output().unwrap();
    // generate() is quiet, which leaves warnings and notes away.
    assert!(output.status.success());
    let mut command = crate::selma();
    command.args(["generate", "--steps", "1", "--overwrite", "--prompt", "a (red:1.5) cat"]);
    command
        .arg("--model")
        .arg(parity("models/tiny-sd1"))
        .arg("--vocab")
        .arg(parity("clip_vocab"))
        .arg("--out")
        .arg(&out);
    let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert_eq!(said.matches("--prompt-syntax webui").count(), 1, "{said}");
}

#[test]
fn loras_of_a_prompt_are_those_of_the_command_and_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let (out, folder) = (dir.path().join("out"), loras(dir.path()));
    let file = folder.join("more/style.safetensors");
    let without = one(generate(&out).args(["--prompt", "a cat"]), &out);
    let mut given = generate(&out);
    let given = one(given.args(["--prompt", "a cat"]).arg("--lora").arg(format!("{}:0.5", file.display())), &out);
    assert!(given != without);
    // Three prompts: each has its own LoRAs, whatever the one before it had.
    let prompts = dir.path().join("prompts.txt");
    std::fs::write(&prompts, "a cat<lora:style:0.5>\na cat\na cat<lora:style:0.5>\n").unwrap();
    let mut command = generate(&out);
    command.args(["--overwrite", "--batch-size", "2", "--prompt-syntax", "webui", "--seed", "42"]);
    command.arg("--prompts").arg(&prompts).arg("--lora-dir").arg(&folder).assert().success();
    let image = |name: &str| pixels(&bytes(out.join(name)));
    assert!(image("00000.png") == given);
    assert!(image("00002.png") != image("00001.png"));
    let text = png::parameters(&bytes(out.join("00000.png"))).unwrap();
    assert!(text.starts_with("a cat<lora:style:0.5>\n"), "{text}");
    assert!(text.contains("Lora hashes: \"style: ") && text.contains("Lora strengths: \"style: 0.5\""), "{text}");
    let rows = rows(&out);
    let sha256 = selma::formats::digest::file(&file).unwrap();
    let expected = serde_json::json!([
        { "name": "style", "scale": 0.5, "sha256": sha256, "autov2": sha256[..10] }
    ]);
    assert_eq!(rows[0]["loras"], expected);
    assert!(rows[1].get("loras").is_none());
    assert_eq!(rows[2]["prompt_syntax"], "webui");
    // The same command finds all of them there.
    let mut again = generate(&out);
    again.args(["--resume", "--batch-size", "2", "--prompt-syntax", "webui", "--seed", "42"]);
    again.arg("--prompts").arg(&prompts).arg("--lora-dir").arg(&folder).assert().success();
}

#[test]
fn choices_are_made_by_the_seed_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let texts = |seed: &str| {
        let mut command = generate(&out);
        command.args(["--overwrite", "--images-per-prompt", "6", "--prompt", "a {red|blue} cat", "--seed", seed]);
        command.args(["--prompt-syntax", "webui"]).assert().success();
        rows(&out).iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = texts("1");
    assert!(first.iter().all(|text| ["a red cat", "a blue cat"].contains(&text.as_str())), "{first:?}");
    assert!(first.iter().any(|text| *text != first[0]), "{first:?}");
    assert_eq!(first, texts("1"));
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (out, folder) = (dir.path().join("out"), loras(dir.path()));
    let command = |prompt: &str| {
        let mut command = generate(&out);
        command.args(["--prompt", prompt, "--prompt-syntax", "webui"]).arg("--lora-dir").arg(&folder);
        command
    };
    refuses(&mut command("<lora:stile:1> a cat"), 2, &["stile", "there is style"]);
    refuses(&mut command("a [cat:dog:0.5]"), 2, &["prompt editing", "cat:dog:0.5"]);
    refuses(&mut command("a {red|blue cat"), 2, &["not closed"]);
    refuses(command("a cat").args(["--negative", "<lora:style:1>"]), 2, &["negative"]);
    refuses(generate(&out).args(["--prompt", "a"]).arg("--lora-dir").arg(&folder), 2, &["--lora-dir", "webui"]);
    assert!(!out.exists());
}
