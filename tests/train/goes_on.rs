//! Runs that are extended, and runs that start from a LoRA.

use crate::{bytes, deltas, images, said, train};

fn same(one: &std::path::Path, other: &std::path::Path, files: &[&str]) {
    for file in files {
        assert!(bytes(one.join(file)) == bytes(other.join(file)), "{file} differs");
    }
}

#[test]
fn a_run_can_be_extended() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let (whole, extended) = (dir.path().join("whole"), dir.path().join("extended"));
    let common = ["--save-every", "2", "--ema", "0.9"];
    train(&data, &whole, &["--steps", "6"]).args(common).assert().success();
    train(&data, &extended, &["--steps", "4"]).args(common).assert().success();
    let mut more = train(&data, &extended, &["--steps", "6", "--resume"]);
    more.args(common);
    let notes = said(more);
    assert!(notes.contains("goes on to step 6 instead of 4") && !notes.contains("spans"), "{notes}");
    same(&whole, &extended, &["lora.safetensors", "metrics.jsonl", "state/step-00000006.safetensors"]);
    // Its header says how many steps were meant then.
    let fourth = [&whole, &extended].map(|run| deltas(&run.join("lora-00000004.safetensors")));
    assert!(fourth[0] == fourth[1], "lora-00000004.safetensors differs");

    let mut fewer = train(&data, &extended, &["--steps", "5", "--resume"]);
    let refused = fewer.args(common).assert().code(2);
    let refused = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(refused.contains("steps is 5, but 6 steps are done"), "{refused}");

    let cosine = dir.path().join("cosine");
    train(&data, &cosine, &["--steps", "2", "--lr-schedule", "cosine"]).assert().success();
    let notes = said(train(&data, &cosine, &["--steps", "4", "--lr-schedule", "cosine", "--resume"]));
    // Half of the way: half of 3e-4. It had come to its end.
    assert!(notes.contains("1.500e-4 and would have been 0.000e0"), "{notes}");
}

#[test]
fn a_run_can_start_from_a_lora_in_any_layout() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let at = |name: &str| dir.path().join(name);
    train(&data, &at("first"), &["--steps", "2", "--lr", "0.05", "--alpha", "3"]).assert().success();
    let first = at("first").join("lora.safetensors");
    let kohya = at("kohya.safetensors");
    let mut convert = assert_cmd::Command::cargo_bin("selma").unwrap();
    convert.arg("convert").arg(&first).args(["--to", "kohya", "--out"]).arg(&kohya);
    convert.arg("--model").arg(crate::parity("models/tiny-sd1")).assert().success();
    let from = |weights: &std::path::Path, out: &str, arguments: &[&str]| {
        // Rank and targets of the command line make room for those of the file.
        let weights = weights.display().to_string();
        let mut command = train(&data, &at(out), &["--network-weights", &weights, "--alpha", "1"]);
        command.args(arguments).assert().success();
        deltas(&at(out).join("lora.safetensors"))
    };
    // A step too small to be seen.
    let still = from(&first, "still", &["--steps", "1", "--lr", "1e-30", "--weight-decay", "0"]);
    assert_eq!(still, deltas(&first));
    let moved = from(&first, "moved", &["--steps", "4", "--save-every", "2"]);
    assert_ne!(moved, still);
    assert_eq!(from(&kohya, "again", &["--steps", "4"]), moved);
    std::fs::remove_file(at("moved/state/step-00000004.safetensors")).unwrap();
    from(&first, "moved", &["--steps", "4", "--save-every", "2", "--resume"]);
    same(&at("moved"), &at("again"), &["metrics.jsonl"]);
    assert_eq!(deltas(&at("moved/lora.safetensors")), moved);
}

#[test]
fn captions_that_are_cut_are_counted_or_encoded_in_windows() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    std::fs::write(data.join("1.txt"), "cat ".repeat(100)).unwrap();
    let notes = said(train(&data, &dir.path().join("cut"), &["--steps", "3"]));
    for word in ["1 of 3 captions have more than 75 tokens", "1.png (", "--long-prompts"] {
        assert!(notes.contains(word), "{word}: {notes}");
    }
    let notes = said(train(&data, &dir.path().join("long"), &["--steps", "3", "--long-prompts"]));
    assert!(notes.contains("are encoded in") && !notes.contains("warning"), "{notes}");
    let [cut, long] = ["cut", "long"].map(|name| bytes(dir.path().join(name).join("metrics.jsonl")));
    assert!(cut != long);
}

#[test]
fn pure_noise_at_the_end_does_not_fit_epsilon() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let plain = said(train(&data, &dir.path().join("plain"), &["--steps", "2"]));
    let notes = said(train(&data, &dir.path().join("zero"), &["--steps", "2", "--zero_terminal_snr"]));
    assert!(notes.contains("warning: with --zero-snr") && !plain.contains("warning"), "{notes}");
    let v = ["--steps", "2", "--zero-snr", "--prediction", "v-prediction"];
    assert!(!said(train(&data, &dir.path().join("v"), &v)).contains("warning"));
    let [plain, zero] = ["plain", "zero"].map(|name| bytes(dir.path().join(name).join("metrics.jsonl")));
    assert!(plain != zero);
}

#[test]
fn every_optimizer_resumes_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let mut results = Vec::new();
    for name in ["adamw8bit", "prodigy", "lion", "adafactor", "sgd-nesterov", "schedule-free"] {
        let (whole, broken) = (dir.path().join(format!("{name}-whole")), dir.path().join(format!("{name}-broken")));
        let settings = ["--steps", "4", "--save-every", "2", "--optimizer", name];
        for out in [&whole, &broken] {
            train(&data, out, &settings).assert().success();
        }
        std::fs::remove_file(broken.join("state/step-00000004.safetensors")).unwrap();
        train(&data, &broken, &settings).arg("--resume").assert().success();
        same(&whole, &broken, &["lora.safetensors", "metrics.jsonl", "state/step-00000004.safetensors"]);
        // What the state gives as a LoRA is what the run gives.
        let [result, state] =
            ["lora.safetensors", "state/step-00000004.safetensors"].map(|file| deltas(&whole.join(file)));
        assert_eq!(result, state, "{name}");
        assert!(!results.contains(&result), "{name} trains as another optimizer does");
        results.push(result);
    }
}
