//! What people do with a card: train, resume, draw images, merge.

use std::path::Path;

use crate::support::{bytes, count, distance, images, parity, selma, train};

/// Steps of the recorded models of all families, with the steps replayed as graphs, against the CPU.
#[test]
fn every_family_trains_as_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    for model in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"] {
        for (precision, most) in [("f32", 1e-3), ("bf16", 0.5)] {
            let run = |device: &str| {
                let out = dir.path().join(format!("{model}-{precision}-{device}"));
                let counts = out.with_extension("counts");
                let mut command = train(model, &data, &out, device);
                command.args(["--steps", "4", "--precision", precision]).env("PTX_DRIVER_COUNTS", &counts);
                command.assert().success();
                (out, counts)
            };
            let ((cpu, _), (cuda, counts)) = (run("cpu"), run("cuda"));
            let distance = distance(&cuda.join("lora.safetensors"), &cpu.join("lora.safetensors"));
            // AdamW's first steps have the size of the rate whatever the gradient's is, so small gradients show rounding.
            assert!(distance < most, "{model} {precision}: {distance:e}");
            for (cuda, cpu) in losses(&cuda).into_iter().zip(losses(&cpu)) {
                let most = if precision == "f32" { 1e-4 } else { 2e-2 };
                assert!((cuda - cpu).abs() < most * cpu, "{model} {precision}: a loss of {cuda}, on the CPU {cpu}");
            }
            assert!(count(&counts, "call", "cuGraphLaunch") > 2, "{model} {precision} replayed no graph");
        }
    }
}

fn losses(run: &Path) -> Vec<f64> {
    let metrics = String::from_utf8(bytes(run.join("metrics.jsonl"))).unwrap();
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    let losses: Vec<f64> = metrics.lines().map(line).collect();
    assert_eq!(losses.len(), 4);
    losses
}

/// A run that was stopped goes on to the bytes of one that was not, whether or not steps are graphs, and whether or not
/// every launch is waited for.
#[test]
fn a_run_is_resumed_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let run = |name: &str, variables: &[(&str, &str)], resume: bool| {
        let mut command = train("tiny-sdxl", &data, &dir.path().join(name), "cuda");
        command.args(["--steps", "5", "--save-every", "3", "--precision", "bf16"]).envs(variables.iter().copied());
        command.args(resume.then_some("--resume")).assert().success();
    };
    let files = ["lora.safetensors", "metrics.jsonl", "state/step-00000005.safetensors"];
    let all = |name: &str| files.map(|file| bytes(dir.path().join(name).join(file)));
    run("whole", &[], false);
    run("broken", &[], false);
    for file in ["lora.safetensors", "state/step-00000005.safetensors"] {
        std::fs::remove_file(dir.path().join("broken").join(file)).unwrap();
    }
    run("broken", &[], true);
    assert!(all("whole") == all("broken"), "the resumed run differs");
    run("plain", &[("SELMA_CUDA_GRAPHS", "0")], false);
    assert!(all("whole") == all("plain"), "without graphs the run differs");
    run("waiting", &[("SELMA_CUDA_BLOCKING", "1"), ("PTX_DRIVER_EAGER", "1")], false);
    assert!(all("whole") == all("waiting"), "where every launch is waited for the run differs");
}

#[test]
fn images_are_those_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let draw = |device: &str, precision: &str| {
        let out = dir.path().join(format!("{device}-{precision}"));
        let mut command = selma();
        command.args(["generate", "--steps", "2", "--width", "32", "--height", "32", "--quiet", "--overwrite"]);
        command.args(["--prompt", "a cat", "--device", device, "--precision", precision]);
        command.arg("--model").arg(parity("models/tiny-sd1"));
        command.arg("--vocab").arg(parity("clip_vocab")).arg("--out").arg(&out).assert().success();
        image::open(out.join("00000.png")).unwrap().into_rgb8().into_raw()
    };
    let difference = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(difference(&draw("cpu", "f32"), &draw("cuda", "f32")) <= Some(1));
    // Weights and activations have 8 significant bits: an eighth of the range at the worst pixel.
    assert!(difference(&draw("cpu", "f32"), &draw("cuda", "bf16")) <= Some(32));
}

#[test]
fn a_lora_is_merged_into_a_model_on_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let bake = |device: &str| {
        let out = dir.path().join(device);
        let mut command = selma();
        command.args(["merge", "--method", "concat", "--device", device, "--precision", "bf16", "--lora"]);
        command.arg(format!("{}:0.8", parity("cases/bake_sdxl_two/lora.0.safetensors").display())).arg("--into");
        command.arg(parity("models/tiny-sdxl")).arg("--out").arg(&out).assert().success();
        out.join("unet/diffusion_pytorch_model.safetensors")
    };
    // The model is in f16: a value may fall to its neighbour.
    assert!(distance(&bake("cuda"), &bake("cpu")) <= 1.0 / 1024.0);
}
