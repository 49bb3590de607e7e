//! The memory plan against what a run takes.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

use crate::{model, parity, pictures, says, selma};

fn train(model: &Path, data: &Path, out: &Path) -> Command {
    let mut command = selma();
    command.arg("train").arg("--model").arg(model).arg("--data").arg(data);
    command.arg("--out").arg(out).arg("--vocab").arg(parity("clip_vocab"));
    command.args(["--rank", "8", "--grad-accum", "1", "--steps", "2"]);
    command
}

/// What a run took and what it had planned, in MiB, from the last line of its JSON.
fn measured(command: &mut Command) -> (f64, f64) {
    let output = command.arg("--json").assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let mib = |key: &str| last[key].as_f64().unwrap_or_else(|| panic!("no {key} in {last}")) / (1 << 20) as f64;
    (mib("peak_bytes"), mib("planned_bytes"))
}

#[test]
fn a_run_stays_within_its_plan() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model::small(dir.path()), pictures(dir.path()));
    let mut seen = Vec::new();
    for (name, arguments) in [
        ("one", vec!["--batch-size", "1"]),
        ("many", vec!["--batch-size", "8"]),
        ("layers", vec!["--batch-size", "4", "--targets", "all-linear,conv"]),
        ("recomputed", vec!["--batch-size", "8", "--checkpointing"]),
        (
            "sampled",
            vec!["--resolution", "96", "--sample-every", "2", "--sample-prompt", "a cat"],
        ),
    ] {
        let (peak, plan) = measured(train(&model, &data, &dir.path().join(name)).args(arguments));
        eprintln!("{name}: peak {peak:.0} MiB, plan {plan:.0} MiB");
        seen.push((name, peak, plan));
    }
    for (name, peak, plan) in &seen {
        assert!(
            *peak <= 1.3 * plan,
            "{name}: {peak:.0} MiB taken, {plan:.0} MiB planned"
        );
        assert!(*plan <= 1.5 * peak, "{name}: {plan:.0} MiB planned for {peak:.0} MiB");
    }
    assert!(
        seen[3].1 < 0.8 * seen[1].1,
        "recomputing blocks saves nothing: {seen:?}"
    );
}

#[test]
fn a_run_that_cannot_fit_is_refused_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures(dir.path());
    let out = dir.path().join("out");
    let mut command = train(&parity("models/tiny-sd1"), &data, &out);
    command.args(["--batch-size", "10000000"]);
    says(
        command,
        1,
        &["GiB are free", "--batch-size", "--checkpointing", "planned memory"],
    );
    assert!(!out.join("config.toml").exists());
}
