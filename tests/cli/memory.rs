//! The memory plan against what a run takes.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

use crate::{images, model, parity, says, selma};

fn train(model: &Path, data: &Path, out: &Path) -> Command {
    let mut command = selma();
    command.arg("train").arg("--model").arg(model).arg("--data").arg(data);
    command.arg("--out").arg(out).arg("--vocab").arg(parity("clip_vocab"));
    command.args(["--rank", "8", "--grad-accum", "1", "--steps", "2"]);
    command
}

/// Two numbers of the last line of a run's JSON, in MiB.
fn numbers(command: &mut Command, keys: [&str; 2]) -> [f64; 2] {
    let output = command.arg("--json").assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    keys.map(|key| last[key].as_f64().unwrap_or_else(|| panic!("no {key} in {last}")) / (1 << 20) as f64)
}

/// What a run took and what it had planned, in MiB.
fn measured(command: &mut Command) -> (f64, f64) {
    let [peak, plan] = numbers(command, ["peak_bytes", "planned_bytes"]);
    (peak, plan)
}

/// That what was taken and what was planned are near each other.
fn near(seen: &[(&str, f64, f64)]) {
    for (name, peak, plan) in seen {
        assert!(*peak <= 1.3 * plan, "{name}: {peak:.0} MiB taken, {plan:.0} MiB planned");
        assert!(*plan <= 1.5 * peak, "{name}: {plan:.0} MiB planned for {peak:.0} MiB");
    }
}

#[test]
fn a_run_stays_within_its_plan() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model::small(dir.path()), images(dir.path()));
    let mut seen = Vec::new();
    for (name, arguments) in [
        ("one", vec!["--batch-size", "1"]),
        ("many", vec!["--batch-size", "8"]),
        ("layers", vec!["--batch-size", "4", "--targets", "all-linear,conv"]),
        ("recomputed", vec!["--batch-size", "8", "--checkpointing"]),
        ("sampled", vec!["--resolution", "96", "--sample-every", "2", "--sample-prompt", "a cat"]),
    ] {
        let (peak, plan) = measured(train(&model, &data, &dir.path().join(name)).args(arguments));
        eprintln!("{name}: peak {peak:.0} MiB, plan {plan:.0} MiB");
        seen.push((name, peak, plan));
    }
    near(&seen);
    assert!(seen[3].1 < 0.8 * seen[1].1, "recomputing blocks saves nothing: {seen:?}");
}

/// In the memory of a GPU, which the simulator counts by the byte.
#[cfg(feature = "simulator")]
#[test]
fn a_run_on_a_gpu_stays_within_its_plan() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model::small(dir.path()), images(dir.path()));
    let mut seen = Vec::new();
    for (name, arguments) in [
        ("one", vec!["--batch-size", "1"]),
        ("recomputed", vec!["--batch-size", "2", "--checkpointing"]),
        ("half", vec!["--batch-size", "2", "--precision", "bf16"]),
    ] {
        let mut command = train(&model, &data, &dir.path().join(name));
        command.args(["--device", "sim", "--resolution", "64"]).args(arguments);
        let [peak, plan] = numbers(&mut command, ["device_peak_bytes", "device_planned_bytes"]);
        eprintln!("{name}: peak {peak:.1} MiB, plan {plan:.1} MiB");
        seen.push((name, peak, plan));
    }
    near(&seen);
}

/// The size that `text` names after `title`, in MiB.
#[cfg(feature = "simulator")]
fn said(text: &str, title: &str) -> f64 {
    let rest = text.split_once(title).unwrap_or_else(|| panic!("no {title:?} in {text}")).1;
    let (number, rest) = rest.split_once(' ').unwrap();
    let unit = if rest.starts_with("GiB") { 1024.0 } else { 1.0 };
    assert!(!rest.starts_with("KiB"), "{text}");
    number.parse::<f64>().unwrap() * unit
}

#[cfg(feature = "simulator")]
#[test]
fn images_on_a_gpu_stay_within_their_plan() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("many/00000.png").display().to_string();
    for (name, arguments) in [
        ("many", "--images-per-prompt 8".to_owned()),
        ("half", "--width 128 --height 96 --images-per-prompt 2 --precision bf16".into()),
        ("again", format!("--strength 1 --init-image {first}")),
    ] {
        let mut command = selma();
        command.env("XDG_CACHE_HOME", dir.path().join("cache"));
        command.args(["generate", "--model", "shapes", "--device", "sim", "--steps", "1", "--overwrite"]);
        command.args(["--prompt", "a red circle", "--batch-size", "9"]);
        command.arg("--out").arg(dir.path().join(name)).args(arguments.split(' '));
        let text = String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap();
        let plan = said(&text, "planned memory on simulator (checks Off, threads Forwards): ");
        let peak = said(&text, "peak memory on the device: ");
        // Both are rounded down to whole MiB.
        assert!(peak <= plan && plan <= 1.3 * peak + 1.0, "{name}: {text}");
    }
}

#[test]
fn a_run_that_cannot_fit_is_refused_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    let mut command = train(&parity("models/tiny-sd1"), &data, &out);
    command.args(["--batch-size", "10000000"]);
    says(command, 1, &["GiB are free", "--batch-size", "--checkpointing", "planned memory"]);
    assert!(!out.join("config.toml").exists());
}
