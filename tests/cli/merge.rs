//! `selma merge`: weights of blocks, and the numbers of the result.

use std::path::Path;

use selma::formats::safetensors::Safetensors;
use selma::lora::{self, Expert};
use selma::tensor::DType;

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
