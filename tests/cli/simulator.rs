//! Commands whose networks run on the GPU kernels, by `--device sim`.

use std::path::Path;

use assert_cmd::Command;
use selma::formats::safetensors::Safetensors;

use crate::train::train;
use crate::{bytes, images, parity, says, selma};

fn on_simulator(mut command: Command) -> Command {
    command.args(["--device", "sim"]);
    command
}

/// A command that takes three steps, with noise that is drawn on the device.
fn training(data: &Path, out: &Path) -> Command {
    let mut command = train("tiny-sd1", data, out);
    command.args(["--steps", "3", "--save-every", "2", "--resolution", "32", "--crop", "center"]);
    command
}

/// The largest difference of two LoRAs, relative to the largest value.
fn distance(a: &Path, b: &Path) -> f64 {
    let (a, b) = (Safetensors::open(a).unwrap(), Safetensors::open(b).unwrap());
    let (mut difference, mut largest, mut names) = (0.0_f64, 0.0_f64, 0);
    for name in a.names() {
        let (a, b) = (a.tensor(name).unwrap(), b.tensor(name).unwrap());
        for (a, b) in a.reals::<f64>().iter().zip(&*b.reals::<f64>()) {
            // Written so that NaN is kept.
            difference = if (a - b).abs() <= difference { difference } else { (a - b).abs() };
            largest = largest.max(b.abs());
        }
        names += 1;
    }
    assert!(names > 0 && largest > 0.0);
    difference / largest
}

#[test]
fn training_gives_the_same_bytes_and_what_the_cpu_gives() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = |name: &str| dir.path().join(name);
    training(&data, &out("cpu")).assert().success();
    on_simulator(training(&data, &out("once"))).assert().success();
    on_simulator(training(&data, &out("again"))).assert().success();
    for file in ["lora.safetensors", "metrics.jsonl", "state/step-00000003.safetensors"] {
        assert!(bytes(out("once").join(file)) == bytes(out("again").join(file)), "{file} differs");
    }
    let lora = |name: &str| out(name).join("lora.safetensors");
    let distance = distance(&lora("once"), &lora("cpu"));
    // AdamW's first steps have the size of the rate whatever the gradient's is, so small gradients show rounding.
    assert!(distance < 1e-3, "{distance:e}");
    // A run that was stopped after step 2 goes on from there.
    for file in ["lora.safetensors", "state/step-00000003.safetensors"] {
        std::fs::remove_file(out("again").join(file)).unwrap();
    }
    let mut resumed = on_simulator(training(&data, &out("again")));
    resumed.arg("--resume").assert().success();
    assert!(bytes(lora("once")) == bytes(lora("again")), "the resumed run differs");
}

#[test]
fn f16_training_scales_its_loss_and_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    for (device, optimizer) in [("cpu", "adamw"), ("sim", "adamw"), ("sim", "adamw8bit")] {
        let out = dir.path().join(device).join(optimizer);
        let run = || {
            let mut command = training(&data, &out);
            command.args(["--precision", "f16", "--device", device, "--optimizer", optimizer]);
            command
        };
        run().assert().success();
        let metrics = String::from_utf8(bytes(out.join("metrics.jsonl"))).unwrap();
        for line in metrics.lines() {
            let scale = serde_json::from_str::<serde_json::Value>(line).unwrap()["loss_scale"].as_f64();
            assert!(scale.is_some_and(|scale| scale > 1.0), "{line}");
        }
        let files = ["lora.safetensors", "state/step-00000003.safetensors"].map(|file| out.join(file));
        let progress = Safetensors::open(&files[1]).unwrap().tensor("progress").unwrap();
        assert_eq!(progress.data::<f32>()[1..], [3.0, 3.0], "three updates");
        let whole = files.clone().map(bytes);
        files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        run().arg("--resume").assert().success();
        assert!(whole == files.map(bytes), "the run on {device} by {optimizer} was resumed to other bytes");
        assert!(metrics.as_bytes() == bytes(out.join("metrics.jsonl")));
    }
}

#[test]
fn images_are_the_same_bytes_and_those_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let draw = |name: &str, device: &str, precision: &str| {
        let out = dir.path().join(name);
        let mut command = selma();
        command.args(["generate", "--steps", "2", "--width", "32", "--height", "32", "--quiet", "--overwrite"]);
        command.args(["--prompt", "a cat", "--device", device, "--precision", precision]);
        command.arg("--model").arg(parity("models/tiny-sd1"));
        command.arg("--vocab").arg(parity("clip_vocab")).arg("--out").arg(&out);
        command.assert().success();
        bytes(out.join("00000.png"))
    };
    let (cpu, once, again) = (draw("cpu", "cpu", "f32"), draw("once", "sim", "f32"), draw("again", "sim", "f32"));
    assert!(once == again, "two runs differ");
    let pixels = |png: &[u8]| image::load_from_memory(png).unwrap().into_rgb8().into_raw();
    let difference = pixels(&cpu).iter().zip(pixels(&once)).map(|(a, b)| a.abs_diff(b)).max();
    assert!(difference <= Some(1), "{difference:?}");
    draw("half", "sim", "f16");
}

#[test]
fn a_network_is_verified_in_bf16() {
    let mut command = selma();
    command.args(["verify", "--device", "sim", "--precision", "bf16", "--json"]);
    command.arg(parity("cases/text_encoder_sdxl_2"));
    let output = command.assert().success();
    let row: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(row["ok"], true);
    // Kernels of bf16 do not give what f32 gives.
    assert!(row["error"].as_f64().unwrap() > 1e-4, "{row}");
}

/// Every kernel is run by some check, and gives what the CPU gives.
/// A LoRA on a model, its weights added up by the kernels: the CPU's within rounding.
#[test]
fn models_are_baked_on_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let case = parity("cases/bake_sdxl_two");
    let bake = |device: &str| {
        let out = dir.path().join(device);
        let mut command = selma();
        command.args(["merge", "--method", "concat", "--device", device, "--precision", "bf16", "--lora"]);
        command.arg(format!("{}:0.8", case.join("lora.0.safetensors").display())).arg("--into");
        command.arg(parity("models/tiny-sdxl")).arg("--out").arg(&out).assert().success();
        out.join("unet/diffusion_pytorch_model.safetensors")
    };
    let (cpu, sim) = (bake("cpu"), bake("sim"));
    // The model is in f16: a value may fall to its neighbour, and a few of many do.
    assert!(distance(&sim, &cpu) <= 1.0 / 1024.0);
    let [cpu, sim] = [cpu, sim].map(|file| Safetensors::open(&file).unwrap());
    let (mut different, mut all) = (0, 0);
    for name in cpu.names() {
        let [cpu, sim] = [&cpu, &sim].map(|file| file.tensor(name).unwrap());
        let values = cpu.bytes().chunks(2).zip(sim.bytes().chunks(2));
        different += values.filter(|(cpu, sim)| cpu != sim).count();
        all += cpu.len();
    }
    assert!(different > 0 && different * 1000 < all, "{different} of {all}");
}

#[test]
fn the_simulator_checks_itself() {
    let mut command = selma();
    command.args(["selfcheck", "--device", "sim", "--json"]);
    let output = command.assert().success();
    let lines = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    let rows = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let kernels: usize = rows.map(|row| row["kernels"].as_array().unwrap().len()).sum();
    assert!(kernels > 300, "{kernels} kernels in {lines}");
}

#[test]
fn ops_are_timed() {
    let mut command = selma();
    command.args(["bench", "layer_norm", "--device", "sim", "--runs", "1", "--json"]);
    let output = command.args(["--peak", "1", "--bandwidth", "1"]).assert().success();
    let lines = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    let rows: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let cases: Vec<&str> = rows.iter().map(|row| row["case"].as_str().unwrap()).collect();
    assert!(cases.contains(&"layer_norm 64x320 forward") && cases.contains(&"layer_norm 4x1280 both"), "{cases:?}");
    for row in &rows {
        let (gbs, share) = (row["gbs"].as_f64().unwrap(), row["percent_of_floor"].as_f64().unwrap());
        assert!(row["median_ms"].as_f64().unwrap() > 0.0 && (share - 100.0 * gbs).abs() < 1e-6 * share, "{row}");
    }
    says(
        {
            let mut command = selma();
            command.args(["bench", "nothing-like-that"]);
            command
        },
        2,
        &["nothing to time", "tiny", "conv2d"],
    );
}

#[test]
fn what_a_device_cannot_do_is_said() {
    let with = |arguments: &[&str]| {
        let mut command = selma();
        command.args(arguments);
        command
    };
    says(with(&["selfcheck", "--device", "cpu"]), 2, &["--device cuda or --device sim"]);
    says(with(&["kernels", "--device", "tpu"]), 2, &["--device tpu", "cuda:N or sim"]);
}
