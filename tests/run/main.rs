//! `selma run` on small recorded models, with recorded replies in place of an LLM.

mod answers;
mod asked;
mod benchmarks;
mod demo;
mod endpoints;
mod kills;
#[path = "../verify/models.rs"]
mod models;
mod pieces;
mod resume;
mod scorers;
#[allow(dead_code, reason = "the tests of the client need more of it")]
#[path = "../prompting/server.rs"]
mod server;
mod settings;
#[cfg(feature = "simulator")]
mod simulator;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

fn parity(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(path)
}

/// A pipeline of two skills: tiny-sd1 draws, tiny-sd2 learns. `more` goes to the end of `[experts]`.
fn pipeline(dir: &Path, more: &str) -> PathBuf {
    let replies = dir.join("replies");
    std::fs::create_dir_all(&replies).unwrap();
    for (skill, captions) in [
        ("counting", ["two red circles", "three blue <script>alert(1)</script> stars", "four green squares"]),
        ("spatial", ["a red circle left of a blue star", "a green square above a pink heart", "a heart at the top"]),
    ] {
        let list: Vec<String> = captions.iter().enumerate().map(|(i, c)| format!("{}. {c}", i + 4)).collect();
        let record = serde_json::json!({ "reply": list.join("\n") });
        std::fs::write(replies.join(format!("{skill}.replies.jsonl")), format!("{record}\n")).unwrap();
    }
    let draw = "steps = 2\nbatch-size = 2\nwidth = 32\nheight = 32\n";
    let text = format!(
        "skills = [\"counting\", \"spatial\"]\nvocab = {:?}\n\
         [prompts]\ncount = 3\nreplay = \"replies\"\n\
         [images]\nmodel = {:?}\n{draw}\
         [evaluate]\nprompts = 2\nseeds = 2\n{draw}\
         [experts]\nmodel = {:?}\nresolution = 32\nrank = 2\nsteps = 3\nbatch-size = 2\ngrad-accum = 1\nsave-every = 1\n\
         {more}",
        parity("clip_vocab"),
        parity("models/tiny-sd1"),
        parity("models/tiny-sd2"),
    );
    let path = dir.join("pipeline.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn run(pipeline: &Path, out: &Path) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.arg("run").arg(pipeline).arg("--out").arg(out).arg("--quiet");
    command
}

/// What the contract promises the same bytes of, by path.
fn results(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    collect(out, out, &mut found);
    found
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if path.is_dir() {
            // Records hold times, caches what can be made again.
            if !["stages", "cache"].contains(&name) {
                collect(root, &path, found);
            }
        } else if ["safetensors", "png", "jsonl", "json"].contains(&ending) {
            found.insert(path.strip_prefix(root).unwrap().into(), std::fs::read(&path).unwrap());
        } else {
            assert!(!name.ends_with(".part"), "{} was left behind", path.display());
        }
    }
}

/// Names of the files that differ.
fn differences(a: &BTreeMap<PathBuf, Vec<u8>>, b: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    let names = a.keys().chain(b.keys());
    names.filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

fn says(mut command: Command, code: i32, words: &[&str]) {
    let output = command.assert().code(code);
    let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
}

fn json(mut command: Command) -> serde_json::Value {
    let output = command.arg("--json").assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}
