//! Everything that keeps a state, switched on together, and killed at random: the bytes are those of an unbroken run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::{bytes, images, parity};

const STEPS: u64 = 6;

/// Buckets, captions that vary, both networks, an optimizer that estimates its rate, an average, held-out images.
fn run(data: &Path, out: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("selma"));
    command.args(["train", "--rank", "2", "--targets", "to_q", "--batch-size", "2", "--grad-accum", "2"]);
    command.arg("--model").arg(parity("models/tiny-sd1")).arg("--vocab").arg(parity("clip_vocab"));
    command.args([
        "--buckets",
        "--bucket-steps",
        "8",
        "--resolution",
        "32",
        "--shuffle-caption",
        "--caption-dropout",
        "0.2",
    ]);
    command.args(["--train-text-encoder", "--optimizer", "prodigy", "--ema", "0.9", "--validation-split", "0.3"]);
    command.args(["--multires-noise-iterations", "2", "--steps", &STEPS.to_string(), "--save-every", "1", "--resume"]);
    command.args(["--sample-every", "4", "--sample-prompt", "one", "--sample-prompt", "two"]);
    command.arg("--data").arg(data).arg("--out").arg(out);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

#[test]
fn a_run_with_everything_on_is_the_same_after_any_kills() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    std::fs::write(data.join("1.txt"), "one, two, three").unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let begun = std::time::Instant::now();
    assert!(run(&data, &whole).status().unwrap().success());
    let taken = begun.elapsed();
    // Another moment each time: what the clock gives is as good as any other.
    let mut kills = 0;
    let finished = loop {
        let nanoseconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        let share = f64::from(nanoseconds % 1000) / 1000.0;
        // Later and later, so that the run ends.
        let wait = taken.mul_f64(share * (0.3 + 0.15 * f64::from(kills)));
        let mut child = run(&data, &killed).spawn().unwrap();
        std::thread::sleep(wait.max(Duration::from_millis(5)));
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
        if kills == 12 {
            break run(&data, &killed).status().unwrap();
        }
    };
    assert!(finished.success() && kills > 0, "{kills} kills");
    let last = format!("state/step-{STEPS:08}.safetensors");
    let records = ["metrics.jsonl", "validation.jsonl", "report.html", "samples/metadata.jsonl"];
    for file in records.into_iter().chain(["lora.safetensors", "lora-00000003.safetensors", &last]) {
        assert!(bytes(whole.join(file)) == bytes(killed.join(file)), "after {kills} kills {file} differs");
    }
}
