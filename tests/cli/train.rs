//! `selma train` and what comes of its LoRA.

use std::path::Path;

use assert_cmd::Command;
use selma::formats::safetensors::Safetensors;

use crate::{bytes, images, parity, says, selma};

pub fn train(model: &str, data: &Path, out: &Path) -> Command {
    let mut command = selma();
    command.args(["train", "--rank", "4", "--train_batch_size", "2", "--grad-accum", "2", "--quiet"]);
    command.arg("--model").arg(parity(&format!("models/{model}"))).arg("--vocab").arg(parity("clip_vocab"));
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

#[test]
fn a_resumed_training_gives_the_bytes_of_an_unbroken_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    for optimizer in ["adamw", "AdamW8bit"] {
        resume(&data, &dir.path().join(optimizer), optimizer);
    }
}

fn resume(data: &Path, dir: &Path, optimizer: &str) {
    let settings = ["--steps", "6", "--save-every", "2", "--optimizer", optimizer];
    let (whole, broken) = (dir.join("whole"), dir.join("broken"));
    train("tiny-sd1", data, &whole).args(settings).assert().success();
    train("tiny-sd1", data, &broken).args(settings).assert().success();
    // As after a kill between the states of steps 2 and 4: only the older state is there, metrics go further.
    for step in [4, 6] {
        std::fs::remove_file(broken.join(format!("state/step-{step:08}.safetensors"))).unwrap();
    }
    std::fs::remove_file(broken.join("lora.safetensors")).unwrap();
    let again = train("tiny-sd1", data, &broken).args(settings).assert().code(1);
    assert!(String::from_utf8_lossy(&again.get_output().stderr).contains("--resume"));
    train("tiny-sd1", data, &broken).args(settings).arg("--resume").assert().success();
    for file in ["lora.safetensors", "metrics.jsonl", "state/step-00000006.safetensors"] {
        assert!(bytes(whole.join(file)) == bytes(broken.join(file)), "{file} differs");
    }
    assert_eq!(String::from_utf8(bytes(whole.join("metrics.jsonl"))).unwrap().lines().count(), 6);
}

#[test]
fn every_family_trains_and_its_lora_changes_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    for model in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"] {
        let out = dir.path().join(model);
        train(model, &data, &out).args(["--steps", "2", "--lr", "0.05"]).assert().success();
        let draw = |name: &str, lora: bool| {
            let folder = out.join(name);
            let mut command = selma();
            command.args(["generate", "--prompt", "a cat", "--steps", "2", "--quiet", "--overwrite"]);
            command.arg("--model").arg(parity(&format!("models/{model}"))).arg("--vocab").arg(parity("clip_vocab"));
            if lora {
                command.arg("--lora").arg(format!("{}:0.8", out.join("lora.safetensors").display()));
            }
            command.arg("--out").arg(&folder).assert().success();
            bytes(folder.join("00000.png"))
        };
        let plain = draw("plain", false);
        assert!(plain == draw("again", false), "{model}: the same command drew another image");
        assert!(plain != draw("lora", true), "{model}: the LoRA changed nothing");
    }
}

#[test]
fn options_decide_what_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let run = |name: &str, arguments: &[&str]| {
        let out = dir.path().join(name);
        let mut command = train("tiny-sd1", &data, &out);
        command.args(["--steps", "2", "--crop", "center", "--no-flip"]);
        command.args(arguments).assert().success();
        bytes(out.join("metrics.jsonl"))
    };
    let plain = run("plain", &[]);
    assert!(plain == run("order", &["--lora-order", "auto"]));
    let losses = |metrics: &[u8]| -> Vec<f64> {
        let lines = String::from_utf8_lossy(metrics).into_owned();
        let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
        lines.lines().map(loss).collect()
    };
    for order in ["factored", "merged", "projected", "merged-projected"] {
        let got = run(order, &["--lora-order", order]);
        for (got, expected) in losses(&got).iter().zip(losses(&plain)) {
            assert!((got - expected).abs() < 1e-5 * expected, "{order}: {got}, {expected}");
        }
    }
    let vae = parity("models/tiny-sd2");
    for (name, arguments) in [
        ("betas", ["--betas", "0.5,0.9"]),
        ("eps", ["--eps", "0.1"]),
        ("prediction", ["--prediction", "v_prediction"]),
        ("vae", ["--vae", vae.to_str().unwrap()]),
    ] {
        let settings = std::fs::read_to_string(dir.path().join("plain/config.toml")).unwrap();
        assert!(plain != run(name, &arguments), "{name} changed nothing");
        let changed = std::fs::read_to_string(dir.path().join(name).join("config.toml")).unwrap();
        assert!(settings != changed, "{name} is not in config.toml");
    }
    // The sums are the same, in another order.
    let losses = |metrics: &[u8]| -> Vec<f64> {
        let text = std::str::from_utf8(metrics).unwrap();
        let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
        text.lines().map(loss).collect()
    };
    for (a, b) in losses(&plain).iter().zip(losses(&run("recomputed", &["--checkpointing"]))) {
        assert!((a - b).abs() < 1e-5 * a, "{a} and {b}");
    }
}

/// Nobody to tell.
struct Silent;

impl selma::train::watcher::Watcher for Silent {
    fn note(&mut self, _: &str) {}
    fn prepared(&mut self, _: &'static str, _: usize, _: usize) {}
    fn step(&mut self, _: &selma::train::watcher::StepReport) {}
    fn stopped(&self) -> bool {
        false
    }
}

#[test]
fn runs_that_share_a_unet_give_what_each_gives_alone() {
    use selma::device::Device;
    use selma::tensor::DType;
    use selma::train::config::TrainConfig;
    use selma::train::preparation::Preparation;
    use selma::train::trainer::Trainer;

    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let prepare = |out: &str, targets: &str| {
        let config = TrainConfig {
            model: parity("models/tiny-sd1").to_str().unwrap().into(),
            data: data.clone(),
            out: dir.path().join(out),
            targets: vec![targets.into()],
            rank: 2,
            steps: 2,
            batch_size: 1,
            grad_accum: 1,
            ..TrainConfig::default()
        };
        let vocab = parity("clip_vocab");
        Preparation::new(config, Some(&vocab), &Device::Cpu, DType::F32, false, &mut Silent).unwrap()
    };
    let alone = prepare("alone", "to_q");
    let mut unet = alone.load_unet().unwrap();
    Trainer::start(alone, unet).unwrap().run(&mut Silent).unwrap();

    // All are prepared before the first begins. The other one has branches where the next has none.
    let (other, next) = (prepare("other", "to_v"), prepare("next", "to_q"));
    unet = other.load_unet().unwrap();
    let mut trainer = Trainer::start(other, unet).unwrap();
    trainer.run(&mut Silent).unwrap();
    unet = trainer.into_unet();
    Trainer::start(next, unet).unwrap().run(&mut Silent).unwrap();
    let lora = |name: &str| bytes(dir.path().join(name).join("lora.safetensors"));
    assert!(lora("alone") == lora("next"));
    assert!(lora("alone") != lora("other"));
}

#[test]
fn a_configuration_keeps_its_seed_and_precision_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let first = dir.path().join("first");
    let steps = ["--steps", "2"];
    train("tiny-sd1", &data, &first).args(steps).args(["--seed", "7", "--precision", "bf16"]).assert().success();
    let again = |out: &str, more: &[&str]| {
        let out = dir.path().join(out);
        let mut command = selma();
        command.arg("train").arg("--config").arg(first.join("config.toml")).arg("--out").arg(&out);
        command.arg("--vocab").arg(parity("clip_vocab")).arg("--quiet").args(more).assert().success();
        bytes(out.join("lora.safetensors"))
    };
    let expected = bytes(first.join("lora.safetensors"));
    assert_eq!(again("same", &[]), expected);
    assert_ne!(again("seed", &["--seed", "8"]), expected);
    assert_ne!(again("precision", &["--precision", "f32"]), expected);
}

#[test]
fn the_help_tells_the_defaults() {
    let d = selma::train::config::TrainConfig::default();
    let output = selma().args(["train", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let told = |option: &str, value: String| {
        let (_, rest) = help.split_once(&format!("--{option} <")).unwrap();
        let text = rest.split(" --").next().unwrap();
        let says = |end: char| text.contains(&format!("default: {value}{end}"));
        assert!(says(']') || says(';'), "--{option}: {text}");
    };
    told("rank", d.rank.to_string());
    told("steps", d.steps.to_string());
    told("batch-size", d.batch_size.to_string());
    told("grad-accum", d.grad_accum.to_string());
    told("lr", format!("{:e}", d.lr));
    told("warmup", d.warmup.to_string());
    told("weight-decay", d.weight_decay.to_string());
    told("eps", format!("{:e}", d.eps));
    told("max-grad-norm", d.max_grad_norm.to_string());
    told("noise-offset", d.noise_offset.to_string());
    told("caption-dropout", d.caption_dropout.to_string());
    told("lora-order", d.lora_order.clone());
    told("optimizer", d.optimizer.name());
    told("save-every", d.save_every.to_string());
    told("keep", d.keep.to_string());
    told("targets", d.targets.join(","));
}

/// The result is the moving average of the weights after each step, which forgets faster at the start.
#[test]
fn the_average_of_the_lora_is_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("averaged");
    let settings = ["--steps", "4", "--save-every", "1", "--lr", "0.01", "--ema", "0.3"];
    train("tiny-sd1", &data, &out).args(settings).assert().success();
    let values = |file: &Safetensors, name: &str| file.tensor(name).unwrap().data::<f32>().to_vec();
    let state = |step: u64| {
        let file = Safetensors::open(&out.join(format!("state/step-{step:08}.safetensors"))).unwrap();
        (values(&file, "master"), values(&file, "average"))
    };
    for step in 2..=4 {
        let ((_, before), (master, after)) = (state(step - 1), state(step));
        let decay = (0.3f64).min((1.0 + step as f64) / (10.0 + step as f64)) as f32;
        for ((a, b), m) in after.iter().zip(&before).zip(&master) {
            let expected = decay * b + (1.0 - decay) * m;
            assert!((a - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "step {step}: {a}, not {expected}");
        }
    }
    let (master, average) = state(4);
    assert!(master != average);
    let file = Safetensors::open(&out.join("lora.safetensors")).unwrap();
    let mut result: Vec<f32> = file.names().flat_map(|name| values(&file, name)).collect();
    let mut average = average;
    result.sort_by(f32::total_cmp);
    average.sort_by(f32::total_cmp);
    assert!(result == average);
}

#[test]
fn timesteps_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let run = |name: &str, arguments: &[&str]| {
        let mut command = train("tiny-sd1", &data, &dir.path().join(name));
        command.args(["--steps", "1"]).args(arguments);
        command
    };
    let loss = |name: &str, arguments: &[&str]| {
        run(name, arguments).assert().success();
        bytes(dir.path().join(name).join("metrics.jsonl"))
    };
    assert!(loss("late", &["--min-timestep", "900"]) != loss("all", &[]));
    assert!(
        loss("whole", &["--min-timestep", "0", "--max-timestep", "1000"])
            == bytes(dir.path().join("all/metrics.jsonl"))
    );
    says(run("beyond", &["--max-timestep", "1001"]), 2, &["max-timestep is 1001", "at most 1000"]);
    says(run("none", &["--min-timestep", "500", "--max-timestep", "500"]), 2, &["min-timestep is 500", "below"]);
    says(run("over", &["--min-timestep", "1000"]), 2, &["min-timestep is 1000", "below"]);
}
