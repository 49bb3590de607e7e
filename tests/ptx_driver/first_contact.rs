//! `benches/first_contact.sh`, which people with a card run.

use std::path::Path;
use std::process::Command;

use crate::support::{bytes, driver};

#[test]
fn the_report_goes_on_behind_a_step_that_hung() {
    let dir = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = Command::new("bash");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/first_contact.sh"));
        command.arg("--selma").arg(assert_cmd::cargo::cargo_bin!("selma")).arg("--out").arg(dir.path());
        command.args(["doctor", "train_tiny", "bench"].into_iter().flat_map(|step| ["--only", step]));
        command.env("LD_LIBRARY_PATH", driver()).env("PTX_DRIVER_THREADS", "2");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr))
    };
    // As it is after a restart of the machine in the middle of the ops' times.
    std::fs::create_dir(dir.path().join("steps")).unwrap();
    std::fs::write(dir.path().join("steps/bench.running"), "").unwrap();
    let (code, said) = run();
    assert_eq!(code, Some(1), "{said}");
    let report = || serde_json::from_slice::<serde_json::Value>(&bytes(dir.path().join("report.json"))).unwrap();
    let steps = report()["steps"].clone();
    assert_eq!(steps["doctor"]["status"], "ok", "{said}\n{steps}");
    assert_eq!(steps["train_tiny"]["status"], "ok", "{said}\n{steps}");
    assert_eq!(steps["bench"]["status"], "hung", "{said}");
    let doctor: serde_json::Value = serde_json::from_str(steps["doctor"]["stdout"].as_str().unwrap()).unwrap();
    assert_eq!(doctor["devices"][0]["name"], "PTX stand-in 0");
    let markdown = String::from_utf8(bytes(dir.path().join("report.md"))).unwrap();
    assert!(markdown.contains("| bench | hung |") && markdown.contains("largest_relative_difference"), "{markdown}");
    // What is done is not done again.
    let (code, said) = run();
    assert!(code == Some(1) && said.matches("(done before)").count() == 3, "{said}");
    assert_eq!(report()["steps"], steps);
}
