//! Runs that are killed, stopped, or resumed against something else.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{bytes, images, says, train};

const STEPS: &str = "12";

/// A run of twelve steps that saves after each.
fn command(data: &Path, out: &Path) -> assert_cmd::Command {
    let mut command = train::train("tiny-sd1", data, out);
    command.args(["--steps", STEPS, "--save-every", "1", "--keep", "3"]);
    command
}

/// The same command as a process that can be sent signals.
fn start(command: &assert_cmd::Command) -> Child {
    Command::new(command.get_program())
        .args(command.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn states(out: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(out.join("state")) else {
        return Vec::new();
    };
    let mut states: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    states.retain(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    states.sort();
    states
}

fn leftovers(dir: &Path) -> usize {
    let count = |path: PathBuf| match path.is_dir() {
        true => leftovers(&path),
        false => usize::from(path.extension().is_some_and(|ending| ending == "part")),
    };
    std::fs::read_dir(dir).unwrap().map(|entry| count(entry.unwrap().path())).sum()
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let begin = std::time::Instant::now();
    command(&data, &whole).assert().success();
    let whole_run = begin.elapsed();
    // Moments all over a run, the start and the encoding included; a run that gets to its end is not killed any more.
    let mut killed = 0;
    for i in 0..10u32 {
        let mut child = start(command(&data, &broken).arg("--resume"));
        std::thread::sleep(whole_run * (i * 7 % 10) / 25 + Duration::from_millis(30));
        child.kill().unwrap();
        if !child.wait().unwrap().success() {
            killed += 1;
        }
    }
    assert!(killed >= 3, "only {killed} of 10 runs were still going when they were killed");
    command(&data, &broken).arg("--resume").assert().success();
    for file in ["lora.safetensors", "metrics.jsonl", "state/step-00000012.safetensors"] {
        assert!(bytes(whole.join(file)) == bytes(broken.join(file)), "{file} differs");
    }
    assert_eq!(leftovers(&broken), 0, "files of killed runs are still there");
}

#[test]
fn an_interrupted_run_saves_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let long = |out: &Path| {
        let mut command = train::train("tiny-sd1", &data, out);
        command.args(["--steps", "40", "--save-every", "1000"]);
        command
    };
    long(&whole).assert().success();
    let child = start(&long(&broken));
    let metrics = broken.join("metrics.jsonl");
    while std::fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("--resume goes on"), "{text}");
    assert_eq!(states(&broken).len(), 1, "an interrupted run saves one state");
    long(&broken).arg("--resume").assert().success();
    for file in ["lora.safetensors", "metrics.jsonl"] {
        assert!(bytes(whole.join(file)) == bytes(broken.join(file)), "{file} differs");
    }
}

#[test]
fn a_damaged_state_is_named_and_the_one_before_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    let resume = || {
        let mut again = command(&data, &out);
        again.arg("--resume");
        again
    };
    command(&data, &out).assert().success();
    let expected = bytes(out.join("lora.safetensors"));
    assert_eq!(states(&out).len(), 3, "--keep 3");
    let newest = states(&out).pop().unwrap();
    let sound = bytes(newest.clone());
    let mut flipped = sound.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&sound[..sound.len() / 2], &sound[..100], b"", &flipped] {
        std::fs::write(&newest, damaged).unwrap();
        says(resume(), 1, &["step-00000012.safetensors", "damaged", "remove it"]);
    }
    std::fs::remove_file(&newest).unwrap();
    resume().assert().success();
    assert!(expected == bytes(out.join("lora.safetensors")));
}

#[test]
fn a_state_resumes_its_own_run_only() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    command(&data, &out).assert().success();
    let refused = |arguments: &[&str], words: &[&str]| {
        let mut again = command(&data, &out);
        again.arg("--resume").args(arguments);
        says(again, 1, words);
    };
    refused(&["--lr", "1e-5"], &["`lr` is 0.00001 and was 0.0003", "config.toml"]);
    refused(&["--seed", "7"], &["`seed` is 7 and was 42"]);
    refused(&["--snr-gamma", "5"], &["`snr-gamma` is 5.0 and was not set"]);
    refused(&["--vae", crate::parity("models/tiny-sd2").to_str().unwrap()], &["model", "VAE"]);
    // Each change of the data is named, and undone before the next one.
    let (image, caption) = (data.join("0.png"), data.join("0.txt"));
    let sound = [bytes(image.clone()), bytes(caption.clone())];
    std::fs::write(&caption, "something else").unwrap();
    refused(&[], &["images", "0.png has another caption", "--out"]);
    std::fs::write(&caption, &sound[1]).unwrap();
    std::fs::copy(data.join("1.png"), &image).unwrap();
    refused(&[], &["0.png is another image"]);
    std::fs::write(&image, &sound[0]).unwrap();
    for name in ["9.png", "9.txt"] {
        std::fs::rename(data.join(name.replace('9', "4")), data.join(name)).unwrap();
    }
    refused(&[], &["4.png is gone, 9.png is new"]);
    for name in ["9.png", "9.txt"] {
        std::fs::rename(data.join(name), data.join(name.replace('9', "4"))).unwrap();
    }
    // Without the list it can only be said that something is different.
    let list = out.join("state/data.jsonl");
    let listed = bytes(list.clone());
    std::fs::remove_file(&list).unwrap();
    std::fs::write(&caption, "something else").unwrap();
    refused(&[], &["captions", "--data"]);
    std::fs::write(&caption, &sound[1]).unwrap();
    std::fs::write(&list, listed).unwrap();
    // Where model and data lie does not matter, nor how often is saved.
    let moved = dir.path().join("moved");
    std::fs::rename(&data, &moved).unwrap();
    let mut again = train::train("tiny-sd1", &moved, &out);
    again.args(["--resume", "--steps", STEPS, "--save-every", "5"]);
    again.assert().success();
}

#[test]
fn two_runs_cannot_write_into_one_folder() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    let mut first = train::train("tiny-sd1", &data, &out);
    let mut child = start(first.args(["--steps", "100000"]));
    while !out.join("metrics.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    says(command(&data, &out), 1, &["another selma train"]);
    child.kill().unwrap();
    child.wait().unwrap();
}
