//! Mistakes that programs of judges make, one at a time: each is far outside of the tolerance.

use std::collections::BTreeMap;
use std::path::Path;

use selma::device::Device;
use selma::formats::safetensors::{Safetensors, write};
use selma::tensor::{DType, Tensor};
use selma::verify;

use crate::models::{fixtures, root};

/// What is wrong, and where it must show: case, model, a replacement in a file of the model, quantity, least error.
const MISTAKES: [(&str, &str, [&str; 4], &str, f64); 3] = [
    (
        "the vision tower's epsilon is that of the other layout",
        "blip_vqa_transformers",
        ["judge-blip-vqa", "config.json", "\"layer_norm_eps\": 1e-05", "\"layer_norm_eps\": 1e-06"],
        "image_states",
        1e-3,
    ),
    (
        "GELU for quick-GELU",
        "clip_transformers_quick_gelu",
        ["judge-clip-b", "config.json", "quick_gelu", "gelu"],
        "",
        1e-3,
    ),
    (
        "quick-GELU for GELU",
        "clip_transformers_gelu",
        ["judge-clip-h", "config.json", "\"hidden_act\": \"gelu\"", "\"hidden_act\": \"quick_gelu\""],
        "",
        1e-3,
    ),
];

/// The recorded models, with one file of one model changed.
fn with_a_mistake(dir: &Path, [model, file, right, wrong]: [&str; 4]) {
    use std::os::unix::fs::symlink;
    for name in ["images", "clip_vocab"] {
        symlink(root().join(name), dir.join(name)).unwrap();
    }
    let to = dir.join("models").join(model);
    std::fs::create_dir_all(&to).unwrap();
    for path in std::fs::read_dir(root().join("models").join(model)).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap();
        if name != file {
            symlink(&path, to.join(name)).unwrap();
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(right), "{file} has no {right}");
        std::fs::write(to.join(name), text.replace(right, wrong)).unwrap();
    }
}

fn largest(outcome: &verify::Outcome, quantity: &str) -> f64 {
    let failed = outcome.checks.iter().filter(|check| !check.ok() && check.quantity.contains(quantity));
    failed.map(|check| check.error).fold(0.0, f64::max)
}

#[test]
fn each_makes_its_case_fail() {
    for (what, case, change, quantity, least) in MISTAKES {
        let dir = tempfile::tempdir().unwrap();
        with_a_mistake(dir.path(), change);
        let case = fixtures().join("cases").join(case);
        let outcome = verify::run(&case, Some(dir.path()), &Device::Cpu, DType::F32).unwrap();
        let error = largest(&outcome, quantity);
        println!("{what}: off by {error:.1e}");
        assert!(error > least, "{what}: off by {error:e}");
    }
}

/// The largest error of a case one of whose inputs is made another.
fn with_input(case: &str, input: &str, change: impl Fn(usize, i64) -> i64, quantity: &str) -> f64 {
    let case = fixtures().join("cases").join(case);
    let file = Safetensors::open(&case.join("tensors.safetensors")).unwrap();
    let changed = |tensor: &Tensor| {
        let width = tensor.shape()[1];
        let values = tensor.data::<i64>().iter().enumerate().map(|(i, value)| change(i % width, *value));
        Tensor::new(values.collect(), tensor.shape())
    };
    let tensors: Vec<(String, Tensor)> = file
        .names()
        .map(|name| {
            let tensor = file.tensor(name).unwrap();
            (name.to_owned(), if name == input { changed(&tensor) } else { tensor })
        })
        .collect();
    let broken = tempfile::tempdir().unwrap();
    write(&broken.path().join("tensors.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    std::fs::copy(case.join("case.json"), broken.path().join("case.json")).unwrap();
    let outcome = verify::run(broken.path(), Some(root()), &Device::Cpu, DType::F32).unwrap();
    let error = largest(&outcome, quantity);
    println!("{input}, {quantity}: off by {error:.1e}");
    error
}

/// What the networks are given is part of them: BLIP's question begins with [ENC], and ImageReward's padding to 35 pieces is
/// kept out by a mask alone.
#[test]
fn other_inputs_are_seen_in_the_states() {
    let class = |place: usize, id: i64| if place == 0 { 101 } else { id };
    assert!(with_input("blip_vqa_original", "in.input_ids", class, "question_states") > 1e-2);
    assert!(with_input("judge-image-reward", "in.attention_mask", |_, _| 1, "text_cls") > 1e-1);
}
