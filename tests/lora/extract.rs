//! LoRAs out of models, and LoRAs of lower rank.

use std::collections::BTreeMap;

use assert_cmd::Command;
use selma::device::Device;
use selma::lora::extract::extract;
use selma::lora::svd::Cut;
use selma::lora::{self, bake, save};

use crate::support::{assert_same, parity, relative_error, sample_expert};

/// The model is stored in f16: weights of 11 bits differ by deltas of the same size.
const TOLERANCE: f64 = 5e-4;

fn selma() -> Command {
    Command::cargo_bin("selma").unwrap()
}

#[test]
fn what_was_baked_is_extracted() {
    let dir = tempfile::tempdir().unwrap();
    let model = parity().join("models/tiny-sd1");
    let (_, expert) = sample_expert("tiny-sd1", 2, 3);
    let tuned = dir.path().join("tuned");
    bake::into_model(&model, &[(&expert, 1.0)], &tuned, &Device::Cpu).unwrap();
    let found = extract(&model, &tuned, Cut::Rank(2)).unwrap();
    assert_same(&expert, &found.expert, TOLERANCE);
    assert!(found.relative_error < TOLERANCE && found.left_out.is_empty(), "{}", found.relative_error);
    // What is left out is what the error says.
    let less = extract(&model, &tuned, Cut::Rank(1)).unwrap();
    let (mut rest, mut all) = (0.0, 0.0);
    for (component, module, factors) in expert.iter() {
        let (delta, kept) = (factors.delta(), less.expert.get(component, module).unwrap().delta());
        let norm: f64 = delta.reals::<f64>().iter().map(|x| x * x).sum();
        all += norm;
        rest += relative_error(&kept, &delta).powi(2) * norm;
    }
    let error = f64::sqrt(rest / all);
    assert!(error > 0.05 && (less.relative_error - error).abs() < TOLERANCE, "{error}, said {}", less.relative_error);

    let out = dir.path().join("lora.safetensors");
    let mut command = selma();
    command
        .arg("extract")
        .arg("--base")
        .arg(&model)
        .arg("--tuned")
        .arg(&tuned)
        .args(["--rank", "2", "--layout", "kohya"]);
    command.arg("--out").arg(&out).assert().success();
    let base = lora::base::modules(&model).unwrap();
    assert_same(&expert, &lora::load(&out, Some(&base), false).unwrap().expert, TOLERANCE);
    let refusal = |tuned: &std::path::Path| extract(&model, tuned, Cut::Rank(2)).unwrap_err().to_string();
    assert!(refusal(&model).contains("nothing to extract"));
    assert!(refusal(&parity().join("models/tiny-sdxl")).contains("tiny-sdxl"));
}

#[test]
fn a_lora_is_resized_and_weighed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let model = parity().join("models/tiny-sd1");
    let (base, expert) = sample_expert("tiny-sd1", 3, 5);
    save::diffusers(&at("lora.safetensors"), &expert, &BTreeMap::new()).unwrap();
    let run = |arguments: &[&str], out: &str| {
        let mut command = selma();
        command.current_dir(dir.path()).args(arguments).args(["--out", out, "--model"]).arg(&model);
        command.assert().success();
        lora::load(&at(out), Some(&base), false).unwrap().expert
    };
    let small = run(&["resize", "lora.safetensors", "--rank", "1"], "small.safetensors");
    assert_eq!((small.max_rank(), small.len()), (1, expert.len()));
    // All that is in it.
    assert_same(&expert, &run(&["resize", "lora.safetensors", "--rank", "3"], "same.safetensors"), 1e-6);
    let half = run(&["resize", "lora.safetensors", "--max-error", "0.5"], "half.safetensors");
    for (component, module, factors) in expert.iter() {
        let kept = half.get(component, module).unwrap();
        assert!(relative_error(&kept.delta(), &factors.delta()) <= 0.5);
    }
    assert_same(&expert.clone().scaled(0.5), &run(&["merge", "--lora", "lora.safetensors:0.5"], "m.safetensors"), 1e-6);
    for (arguments, words) in [
        (&["merge", "--lora", "none.safetensors"][..], ["none.safetensors", "--lora"]),
        (&["resize", "lora.safetensors"], ["--rank", "--max-error"]),
        (&["resize", "lora.safetensors", "--rank", "0"], ["--rank 0", "at least 1"]),
    ] {
        let output = selma().current_dir(dir.path()).args(arguments).args(["--out", "x.safetensors"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && words.iter().all(|word| text.contains(word)), "{text}");
    }
}
