//! DoRA: trained, resumed, written in both layouts, gone on from, drawn and merged. Its numbers are peft's: `tests/verify`.

use std::path::Path;

use assert_cmd::Command;
use selma::formats::safetensors::Safetensors;
#[cfg(feature = "simulator")]
use selma::tensor::DType;

use crate::{bytes, images, parity, said, train};

const DORA: [&str; 5] = ["--dora", "--targets", "to_q,conv1", "--lr", "0.01"];

fn dora(data: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.args(["train", "--rank", "2", "--batch-size", "1", "--grad-accum", "1"]).args(DORA);
    command.arg("--model").arg(parity("models/tiny-sd1")).arg("--vocab").arg(parity("clip_vocab"));
    command.arg("--data").arg(data).arg("--out").arg(out).args(arguments);
    command
}

/// An image of the model with a LoRA.
fn drawn(model: &Path, lora: Option<&Path>, out: &Path) -> image::RgbImage {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.args(["generate", "--prompt", "an image", "--steps", "2", "--width", "32", "--height", "32"]);
    command.arg("--model").arg(model).arg("--vocab").arg(parity("clip_vocab")).arg("--out").arg(out);
    if let Some(lora) = lora {
        command.arg("--lora").arg(lora);
    }
    command.assert().success();
    let files = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let file = files.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "png")).unwrap();
    image::open(file).unwrap().to_rgb8()
}

#[test]
fn lengths_are_learnt_and_resumed_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let at = |name: &str| dir.path().join(name);
    for precision in ["f32", "bf16", "f16"] {
        let (whole, broken) = (at(&format!("{precision}-whole")), at(&format!("{precision}-broken")));
        let settings = ["--steps", "4", "--save-every", "2", "--ema", "0.5", "--precision", precision];
        for out in [&whole, &broken] {
            dora(&data, out, &settings).assert().success();
        }
        std::fs::remove_file(broken.join("state/step-00000004.safetensors")).unwrap();
        dora(&data, &broken, &settings).arg("--resume").assert().success();
        for file in ["lora.safetensors", "metrics.jsonl", "state/step-00000004.safetensors"] {
            assert!(bytes(whole.join(file)) == bytes(broken.join(file)), "{precision}: {file} differs");
        }
    }
    // The file of the run, its state, and kohya's layout are the same LoRA; it moved from where the weights are.
    dora(&data, &at("kohya"), &["--steps", "4", "--save-every", "2", "--ema", "0.5", "--format", "kohya"])
        .assert()
        .success();
    let base = selma::lora::base::modules(&parity("models/tiny-sd1")).unwrap();
    let weights = Safetensors::open(&parity("models/tiny-sd1/unet/diffusion_pytorch_model.safetensors")).unwrap();
    let experts = ["f32-whole/lora.safetensors", "f32-whole/state/step-00000004.safetensors", "kohya/lora.safetensors"]
        .map(|file| selma::lora::load(&at(file), Some(&base), false).unwrap().expert);
    let mut moved = 0.0_f64;
    for (component, module, layer) in experts[0].iter() {
        let weight = weights.weight(&format!("{module}.weight")).unwrap();
        let [one, state, kohya] = [0, 1, 2].map(|i| {
            let layer = experts[i].get(component, module).unwrap();
            layer.changed(&weight.reals::<f64>(), 1.0)
        });
        assert!(one == state && one == kohya, "{module}");
        let lengths = layer.magnitude.as_ref().unwrap().values.reals::<f64>().into_owned();
        let width = weight.len() / lengths.len();
        let rows = weight.reals::<f64>();
        for (length, row) in lengths.iter().zip(rows.chunks(width)) {
            let before = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            moved = moved.max((length - before).abs());
        }
    }
    // Four steps of Adam at 0.01 move a value by at most 0.04; the average stays behind.
    assert!((1e-3..0.05).contains(&moved), "{moved}");
}

#[test]
fn what_was_learnt_is_drawn_merged_and_gone_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let at = |name: &str| dir.path().join(name);
    dora(&data, &at("run"), &["--steps", "3"]).assert().success();
    let lora = at("run").join("lora.safetensors");
    let model = parity("models/tiny-sd1");
    let mut merge = Command::cargo_bin("selma").unwrap();
    merge
        .args(["merge", "--lora"])
        .arg(&lora)
        .arg("--into")
        .arg(&model)
        .arg("--out")
        .arg(at("merged"))
        .assert()
        .success();
    let (with, merged, plain) =
        (drawn(&model, Some(&lora), &at("with")), drawn(&at("merged"), None, &at("m")), drawn(&model, None, &at("p")));
    // The model is stored in 16 bits: the merged one is rounded.
    let apart = |a: &image::RgbImage, b: &image::RgbImage| {
        a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>()
    };
    assert!(apart(&with, &plain) > 10 * apart(&with, &merged), "{} {}", apart(&with, &plain), apart(&with, &merged));

    // Without --dora: the file says what it is.
    let weights = lora.display().to_string();
    let on = ["--network-weights", &weights, "--steps", "1", "--lr", "1e-30", "--weight-decay", "0"];
    train(&data, &at("on"), &on).assert().success();
    let [before, after] = [&lora, &at("on").join("lora.safetensors")].map(|path| {
        let file = Safetensors::open(path).unwrap();
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        names.into_iter().map(|name| (file.tensor(&name).unwrap().bytes().to_vec(), name)).collect::<Vec<_>>()
    });
    assert!(before == after && before.iter().any(|(_, name)| name.ends_with("lora_magnitude_vector")));

    let mut merge = Command::cargo_bin("selma").unwrap();
    let refused = merge.args(["merge", "--lora"]).arg(&lora).arg("--out").arg(at("m.safetensors")).assert().code(1);
    assert!(String::from_utf8_lossy(&refused.get_output().stderr).contains("--into"));
    let plan = |arguments: &[&str]| said(dora(&data, &at("plan"), arguments));
    assert!(plan(&["--steps", "1", "--dry-run"]).contains("planned memory"));
}

#[cfg(feature = "simulator")]
#[test]
fn the_kernels_train_what_the_cpu_trains() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let [cpu, sim] = ["cpu", "sim"].map(|device| {
        let out = dir.path().join(device);
        dora(&data, &out, &["--steps", "3", "--save-every", "3", "--device", device]).assert().success();
        Safetensors::open(&out.join("lora.safetensors")).unwrap()
    });
    for name in cpu.names() {
        let [cpu, sim] = [&cpu, &sim].map(|file| file.tensor(name).unwrap().cast(DType::F32));
        let pairs = || cpu.data::<f32>().iter().zip(sim.data::<f32>());
        let difference: f32 = pairs().map(|(c, s)| (c - s).powi(2)).sum();
        let size: f32 = pairs().map(|(c, _)| c.powi(2)).sum();
        // Sums in another order; AdamW's first steps have the size of the rate whatever the gradient's is.
        assert!(difference.sqrt() <= 1e-3 * size.sqrt(), "{name}");
    }
}
