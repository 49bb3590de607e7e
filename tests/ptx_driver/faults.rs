//! Faults that are planted into kernels, calls or the device must not go unseen.

use std::path::Path;

use crate::support::{all_launches, bytes, images, selma, train};

/// What a small selfcheck says where the driver plants `fault`.
fn checked(fault: &str, code: i32) -> String {
    let mut command = selma();
    command.args(["selfcheck", "--device", "cuda", "--small"]).env("PTX_DRIVER_FAULT", fault);
    let output = command.assert().code(code);
    let output = output.get_output();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn matrices_that_are_not_transposed_are_seen() {
    let said = checked("trans", 1);
    assert!(said.contains("FAIL") && said.contains("checks failed"), "{said}");
}

#[test]
fn copies_that_nobody_waits_for_are_seen() {
    let said = checked("wait", 1);
    assert!(said.contains("asynchronous copies that nobody waited for"), "{said}");
}

#[test]
fn a_missing_barrier_is_seen() {
    let said = checked("barrier", 1);
    assert!(said.contains("with no barrier between them"), "{said}");
}

/// Kernels of other sources than the launch code.
#[test]
fn a_parameter_of_another_size_is_seen() {
    let said = checked("parameter", 1);
    assert!(said.contains("bytes in the compiled kernel") && said.contains("parameter"), "{said}");
}

/// A number that no version of CUDA that selma knows has.
#[test]
fn an_unknown_result_is_told_as_a_number() {
    let said = checked("code:4711", 1);
    assert!(said.contains("error 4711"), "{said}");
}

/// The device is lost in the middle of a run: an error that says how to go on, and the last state does.
#[test]
fn a_lost_device_ends_the_run_and_the_last_state_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (images(dir.path()), dir.path().join("out"));
    let run = |out: &Path| {
        let mut command = train("tiny-sdxl", &data, out, "cuda");
        command.args(["--steps", "6", "--save-every", "2", "--precision", "bf16"]);
        command
    };
    // Two thirds of the way.
    let counts = dir.path().join("counts");
    run(&dir.path().join("whole")).env("PTX_DRIVER_COUNTS", &counts).assert().success();
    let lost = format!("lost:{}", all_launches(&counts) * 2 / 3);
    let lost = run(&out).env("PTX_DRIVER_FAULT", lost).assert().code(1);
    let said = String::from_utf8_lossy(&lost.get_output().stderr).into_owned();
    let words = ["CUDA_ERROR_LAUNCH_FAILED (719)", "is unknown", "SELMA_CUDA_GRAPHS=0", "--resume"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    run(&out).arg("--resume").assert().success();
    let lora = |folder: &Path| bytes(folder.join("lora.safetensors"));
    assert!(lora(&out) == lora(&dir.path().join("whole")));
}
