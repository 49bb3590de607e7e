//! `selma kernels`.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::selma;

fn json(arguments: &[&str]) -> Option<Value> {
    let output = selma().arg("kernels").args(arguments).arg("--json").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let no_machine_code = ["this build of selma is without", "nvcc", "SELMA_CUDA_ARCH"];
    if output.status.code() == Some(2) && no_machine_code.iter().any(|why| text.contains(why)) {
        return None;
    }
    assert!(output.status.success(), "{text}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn every_kernel_is_listed_with_its_parameters() {
    let listed = json(&[]).unwrap();
    let kernels = listed.as_array().unwrap();
    let found = kernels.iter().find(|k| k["kernel"] == "geglu_forward").unwrap();
    assert_eq!(found["file"], "elementwise.cu");
    assert_eq!(found["parameters"], serde_json::json!(["y", "x", "rows", "width"]));
}

/// A build without nvcc says so; one with it knows every kernel in three storage types, those for compute capability 9.0 alone
/// in two for one target, and none of them spills.
#[test]
fn resources_are_known_and_nothing_spills() {
    let Some(resources) = json(&["--resources"]) else {
        return;
    };
    let kernels = json(&[]).unwrap();
    let is_hopper = |kernel: &&Value| kernel["file"].as_str().unwrap().ends_with("_hopper.cu");
    let (hopper, others): (Vec<&Value>, Vec<&Value>) = kernels.as_array().unwrap().iter().partition(is_hopper);
    let rows = resources.as_array().unwrap();
    let of_hopper = rows.iter().filter(|row| hopper.iter().any(|kernel| kernel["kernel"] == row["kernel"])).count();
    assert!([0, 2 * hopper.len()].contains(&of_hopper), "{of_hopper} rows");
    let of_others = rows.len() - of_hopper;
    assert!(of_others > 0 && of_others % (3 * others.len()) == 0, "{of_others} rows");
    for row in rows {
        assert!(row["registers"].as_u64().unwrap() > 0, "{row}");
        assert!(row["spill_stores"] == 0 && row["spill_loads"] == 0, "{row}");
    }
}

/// `selma kernels | head -0`: the reader is gone before the first line.
#[test]
fn a_reader_that_leaves_is_no_panic() {
    let mut selma = Command::new(assert_cmd::cargo::cargo_bin!("selma"));
    let mut child = selma.arg("kernels").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}
