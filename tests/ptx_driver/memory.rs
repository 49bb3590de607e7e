//! Devices with little memory, several devices, and drivers that are too old.

use crate::support::{bytes, images, selma, train};

/// Every allocation in turn, from the first to the last, finds no room: the run ends with a sentence, and what it saved goes
/// on to what an undisturbed run gives.
#[test]
fn no_room_at_any_moment_is_told_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let run = |name: &str| {
        let mut command = train("tiny-sdxl", &data, &dir.path().join(name), "cuda");
        command.args(["--steps", "3", "--save-every", "3", "--precision", "bf16"]);
        // In pieces: not all of the plan at once.
        command.env("PTX_DRIVER_LARGEST", (4 << 20).to_string());
        command
    };
    let lora = |name: &str| bytes(dir.path().join(name).join("lora.safetensors"));
    run("whole").assert().success();
    let (mut planned, mut saved) = (0, 0);
    for number in 1.. {
        let name = format!("at-{number}");
        let output = run(&name).env("PTX_DRIVER_FAULT", format!("memory:{number}")).output().unwrap();
        if output.status.success() {
            assert!(lora(&name) == lora("whole"));
            break;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{number}: {said}");
        assert!(said.contains("out of memory"), "{number}: {said}");
        planned += usize::from(said.contains("This run was planned to take"));
        if said.contains("is saved") {
            saved += 1;
            run(&name).arg("--resume").assert().success();
            assert!(lora(&name) == lora("whole"), "{number}");
        }
    }
    assert!(planned > 1 && saved > 0, "{planned} and {saved}");
}

/// A card whose memory others hold: the plan says so before anything is done.
#[test]
fn a_card_without_room_is_told_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let mut command = train("tiny-sdxl", &data, &dir.path().join("out"), "cuda");
    let output = command.args(["--steps", "1"]).env("PTX_DRIVER_MEMORY", "1000000").assert().code(1);
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(said.contains("of memory on") && said.contains("are free"), "{said}");
}

#[test]
fn devices_are_counted() {
    let check = |device: &str| {
        let mut command = selma();
        command.args(["doctor", "--device", device]).env("PTX_DRIVER_DEVICES", "2");
        command
    };
    let output = check("cuda:1").assert().success();
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(said.contains("cuda:0    PTX stand-in 0") && said.contains("cuda:1    PTX stand-in 1"), "{said}");
    let output = check("cuda:2").assert().code(2);
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(said.contains("there is no device 2; the driver has 2"), "{said}");
}

/// A driver or a card that is too old: `auto` says so once, and computes on the CPU.
#[test]
fn auto_goes_on_without_a_gpu_that_is_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    for (variable, value, words) in [
        ("PTX_DRIVER_VERSION", "11080", "this one knows CUDA 11.8"),
        ("PTX_DRIVER_CAPABILITY", "7.5", "has compute capability 7.5"),
    ] {
        let mut command = selma();
        command.args(["train", "--rank", "2", "--steps", "1", "--resolution", "32", "--grad-accum", "1"]);
        command.arg("--model").arg(crate::support::parity("models/tiny-sd1"));
        command.arg("--vocab").arg(crate::support::parity("clip_vocab")).arg("--data").arg(&data);
        let output = command.arg("--out").arg(dir.path().join(variable)).env(variable, value).assert().success();
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert_eq!(said.matches("on the CPU, since no GPU can be used").count(), 1, "{said}");
        assert!(said.contains(words), "{said}");
    }
}

/// A driver that only knows CUDA 12 gets the shipped PTX, whatever compiled the machine code.
#[test]
fn an_older_driver_gets_the_shipped_ptx() {
    let output = selma().args(["doctor", "--json"]).env("PTX_DRIVER_VERSION", "12000").assert().success();
    let said: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let device = &said["devices"][0];
    assert!(device["image"].as_str().unwrap().contains("shipped PTX") && device["is_ptx"] == true, "{said}");
    assert!(said["advice"][0].as_str().unwrap().contains("compiles the kernels when they are first used"), "{said}");
}
