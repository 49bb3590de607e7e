//! `selma merge`: weights of blocks, and the numbers of the result.

use std::collections::BTreeMap;
use std::path::Path;

use selma::formats::safetensors::{Safetensors, write};
use selma::lora::{self, Expert};
use selma::tensor::{DType, Tensor};

use crate::{parity, selma};

fn merged(out: &Path, options: &[&str]) -> Expert {
    let lora = parity("cases/sample_sd1_lora/lora.safetensors");
    let mut command = selma();
    command.args(["merge", "--overwrite", "--method", "concat"]).args(options);
    command.arg("--lora").arg(lora).arg("--out").arg(out).assert().success();
    lora::load(out, None, false).unwrap().expert
}

#[test]
fn blocks_are_weighted_and_the_file_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.safetensors");
    let whole = merged(&out, &[]);
    let weighted = merged(&out, &["--block-weights", "IN=0,MID=-0.5,OUT=2"]);
    let (mut seen, mut left_out) = (0, 0);
    for (component, module, before) in whole.iter() {
        let weight = match module.split('.').next().unwrap() {
            "down_blocks" => 0.0,
            "mid_block" => -0.5,
            "up_blocks" => 2.0,
            _ => 1.0,
        };
        let now = weighted.get(component, module);
        if weight == 0.0 {
            assert!(now.is_none(), "{module}");
            left_out += 1;
            continue;
        }
        let (before, now) = (before.delta(), now.unwrap().delta());
        for (a, b) in before.reals::<f64>().iter().zip(now.reals::<f64>().iter()) {
            assert!((a * weight - b).abs() <= 1e-6 * (1.0 + b.abs()), "{module}: {a} times {weight} is {b}");
        }
        seen += 1;
    }
    assert!(seen > 3 && left_out > 3, "{seen} and {left_out} modules");
    let said = Safetensors::open(&out).unwrap().metadata()["selma.block_weights"].clone();
    assert_eq!(said, "[\"IN=0,MID=-0.5,OUT=2\"]");
    let mut command = selma();
    command.args(["merge", "--overwrite", "--method", "concat", "--block-weights", "1,2,3", "--lora"]);
    let output = command.arg(parity("cases/sample_sd1_lora/lora.safetensors")).arg("--out").arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("12 or 20"), "{said}");
}

#[test]
fn the_result_has_the_numbers_that_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (precision, dtype) in [("f32", DType::F32), ("fp16", DType::F16), ("bf16", DType::Bf16)] {
        for layout in ["diffusers", "kohya"] {
            let out = dir.path().join("out.safetensors");
            merged(&out, &["--save-precision", precision, "--layout", layout]);
            let file = Safetensors::open(&out).unwrap();
            let factors: Vec<&str> = file.names().filter(|name| !name.ends_with("alpha")).collect();
            assert!(!factors.is_empty());
            for name in factors {
                assert_eq!(file.tensor(name).unwrap().dtype(), dtype, "{layout}: {name}");
            }
            let again = dir.path().join("again.safetensors");
            let mut command = selma();
            command.arg("convert").arg(&out).args(["--to", "kohya", "--save-precision", "f16", "--overwrite", "--out"]);
            command.arg(&again).assert().success();
            let again = Safetensors::open(&again).unwrap();
            assert!(
                again
                    .names()
                    .filter(|name| name.contains("lora_up"))
                    .all(|name| again.tensor(name).unwrap().dtype() == DType::F16)
            );
        }
    }
}

/// A LoRA may change norms and biases alone: what was merged is said all the same.
#[test]
fn norms_and_biases_are_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let model = parity("models/tiny-sd1");
    let unet = Safetensors::open(&model.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let ones = |name: &str| Tensor::full(unet.shape(name).unwrap(), 1.0, DType::F32);
    let norm = ("lora_unet_conv_norm_out.w_norm".to_owned(), ones("conv_norm_out.weight"));
    let bias = ("lora_unet_conv_in.diff_b".to_owned(), ones("conv_in.bias"));
    write(&at("norm.safetensors"), std::slice::from_ref(&norm), &BTreeMap::new()).unwrap();
    write(&at("both.safetensors"), &[norm, bias], &BTreeMap::new()).unwrap();
    let says = |arguments: &[&str], out: &str| {
        let mut command = selma();
        command.args(arguments).arg("--model").arg(&model).arg("--out").arg(at(out)).current_dir(dir.path());
        let output = command.assert().success();
        String::from_utf8_lossy(&output.get_output().stdout).into_owned()
    };
    let kohya = ["merge", "--method", "concat", "--layout", "kohya"];
    let said = says(&[&kohya[..], &["--lora", "norm.safetensors"]].concat(), "a.safetensors");
    assert!(said.contains(": 1 norm, relative error 0"), "{said}");
    let lora = parity("cases/sample_sd1_lora/lora.safetensors").display().to_string();
    let said = says(&[&kohya[..], &["--lora", "both.safetensors", "--lora", &lora]].concat(), "b.safetensors");
    assert!(said.contains(" modules, rank up to ") && said.contains(", 1 norm and 1 bias, relative"), "{said}");
    let said = says(&["convert", "both.safetensors", "--to", "kohya"], "c.safetensors");
    assert!(said.contains(": 1 norm and 1 bias\n"), "{said}");
    let said = says(&["--json", "convert", "norm.safetensors", "--to", "kohya"], "d.safetensors");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!([&said["modules"], &said["norms"], &said["biases"]], [&0, &1, &0]);
}
