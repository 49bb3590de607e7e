//! Learned tokens and gates on the GPU kernels, by `--device sim`, against the CPU.

use std::path::Path;

use selma::formats::safetensors::Safetensors;
use selma::shapes::Skill;

use crate::{photos, pixels, run};

fn parity(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(path).display().to_string()
}

/// The largest difference of two files, relative to the largest value.
fn distance(a: &Path, b: &Path) -> f64 {
    let (a, b) = (Safetensors::open(a).unwrap(), Safetensors::open(b).unwrap());
    assert_eq!(a.names().collect::<Vec<_>>(), b.names().collect::<Vec<_>>());
    let (mut difference, mut largest) = (0.0_f64, 0.0_f64);
    for name in a.names() {
        let (a, b) = (a.tensor(name).unwrap(), b.tensor(name).unwrap());
        for (a, b) in a.reals::<f64>().iter().zip(&*b.reals::<f64>()) {
            // Written so that NaN is kept.
            difference = if (a - b).abs() <= difference { difference } else { (a - b).abs() };
            largest = largest.max(b.abs());
        }
    }
    assert!(largest > 0.0);
    difference / largest
}

#[test]
fn tokens_and_gates_are_what_the_cpu_makes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (model, vocab) = (parity("models/tiny-sd1"), parity("clip_vocab"));
    photos(dir, "photos", Skill::Everyday, 2);
    for name in ["000.txt", "001.txt"] {
        std::fs::write(dir.join("photos").join(name), "a photo of a <x>").unwrap();
    }
    let common = ["--model", &model, "--vocab", &vocab];
    let data = ["--data", "photos", "--batch-size", "1", "--steps", "2"];
    for device in ["cpu", "sim"] {
        let at = |name: &str| format!("{device}/{name}");
        for seed in ["1", "2"] {
            let train = ["train", "--class-token", "<x>", "--with-lora", "--init-word", "photo", "--rank", "2"];
            let more = ["--grad-accum", "1", "--resolution", "32", "--seed", seed, "--device", device];
            run(dir, &[&train[..], &common, &data, &more, &["--out", &at(seed)]].concat());
        }
        // The gate of the CPU's experts on both, so that it is compared alone.
        let gate = ["merge", "--gate", "--lr", "0.05", "--lora", "cpu/1", "--lora", "cpu/2", "--device", device];
        run(dir, &[&gate[..], &common, &data, &["--out", &at("gate.safetensors")]].concat());
        let draw = ["generate", "--prompt", "a <x> on grass", "--steps", "2", "--width", "32", "--height", "32"];
        let with = ["--embedding", "cpu/1/learned_embeds.safetensors", "--gate", "cpu/gate.safetensors"];
        let more = ["--lora", "cpu/1", "--lora", "cpu/2", "--device", device, "--out"];
        run(dir, &[&draw[..], &common, &with, &more, &[&at("drawn")]].concat());
    }
    let far = |name: &str| distance(&dir.join("sim").join(name), &dir.join("cpu").join(name));
    // AdamW's first steps have the size of the rate whatever the gradient's is, so small gradients show rounding.
    for name in ["1/learned_embeds.safetensors", "1/lora.safetensors", "gate.safetensors"] {
        assert!(far(name) < 1e-3, "{name}: {:e}", far(name));
    }
    let [cpu, sim] = ["cpu", "sim"].map(|device| pixels(&dir.join(device).join("drawn")).remove(0));
    let levels = cpu.iter().zip(&sim).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(levels <= 1, "images differ by {levels} levels");
}
