//! `selma metrics` on folders of images: the numbers follow from the recorded features, embeddings and distances; what was
//! computed is kept.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use selma::formats::safetensors::Safetensors;
use selma::metrics::statistics::Statistics;
use selma::metrics::{Features, fid};
use selma::tensor::Tensor;
use serde_json::{Value, json};

use crate::models::root;

/// An image and its reference: the pairs of the recorded distances.
const PAIRS: [[&str; 2]; 3] = [["wide", "big"], ["square", "square"], ["wide", "square"]];
/// Two sets whose features are recorded.
const SETS: [[&str; 2]; 3] = [["wide", "square"], ["tall", "gray"], ["gray", "wide"]];

fn recorded(case: &str, tensor: &str) -> Vec<Vec<f64>> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/cases");
    let file = Safetensors::open(&cases.join(case).join("tensors.safetensors")).unwrap();
    let tensor = file.tensor(tensor).unwrap();
    let width = tensor.len() / tensor.shape()[0];
    tensor.reals::<f64>().chunks_exact(width).map(<[f64]>::to_vec).collect()
}

/// The recorded rows of the images of both sides; the fourth recorded image is `last`.
fn sides(pairs: [[&str; 2]; 3], case: &str, tensor: &str, last: &str) -> [Vec<Vec<f64>>; 2] {
    let rows = recorded(case, tensor);
    let place = |name: &str| ["wide", "tall", "square", last].iter().position(|other| *other == name).unwrap();
    [0, 1].map(|side| pairs.iter().map(|pair| rows[place(pair[side])].clone()).collect())
}

fn folders(dir: &Path, pairs: [[&str; 2]; 3]) -> [PathBuf; 2] {
    let folders = ["images", "reference"].map(|name| dir.join(name));
    for (side, folder) in folders.iter().enumerate() {
        std::fs::create_dir_all(folder).unwrap();
        for (i, pair) in pairs.iter().enumerate() {
            std::fs::copy(root().join(format!("images/{}.png", pair[side])), folder.join(format!("{i}.png"))).unwrap();
        }
    }
    let row = |i: usize, text: &str| json!({ "file_name": format!("{i}.png"), "text": text }).to_string();
    let metadata = [row(0, "a"), row(1, "a"), row(2, "b")].join("\n");
    std::fs::write(folders[0].join("metadata.jsonl"), metadata).unwrap();
    folders
}

fn metrics(images: &Path, reference: Option<&Path>, out: &Path) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.args(["metrics", "--device", "cpu", "--quiet", "--overwrite"]);
    command.arg("--images").arg(images).arg("--out").arg(out);
    reference.map(|reference| command.arg("--reference").arg(reference));
    command
}

fn network(option: &str, model: &str) -> String {
    format!("--{option}={}", root().join("models").join(model).display())
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn value<'a>(metrics: &'a Value, name: &str, rule: &str) -> &'a Value {
    let is = |m: &&Value| m["name"] == name && m["rule"].as_str().unwrap_or_default().contains(rule);
    metrics.as_array().unwrap().iter().find(is).unwrap_or_else(|| panic!("no {name} by {rule}: {metrics}"))
}

fn near(metric: &Value, expected: f64, tolerance: f64) {
    let value = metric["value"].as_f64().unwrap();
    assert!((value - expected).abs() <= tolerance, "{}: {value} is not {expected}", metric["name"]);
}

fn statistics(rows: &[Vec<f64>]) -> Statistics {
    let tensor = Tensor::new(rows.concat(), &[rows.len(), rows[0].len()]);
    Statistics::of(&Features::new(&tensor).unwrap()).unwrap()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn folders_are_measured_through_the_networks() {
    let dir = tempfile::tempdir().unwrap();
    let [images, reference] = folders(dir.path(), PAIRS);
    let out = dir.path().join("metrics.json");
    let per_image = dir.path().join("images.jsonl");
    let html = dir.path().join("metrics.html");
    let run = || {
        let mut command = metrics(&images, Some(&reference), &out);
        command.arg(network("inception", "judge-inception")).arg(network("clip", "judge-clip-b"));
        command.arg(network("lpips", "judge-lpips"));
        command.args(["--kid-subsets", "3", "--batch-size", "2"]);
        command.arg("--per-image").arg(&per_image).arg("--html").arg(&html).assert().success();
        json_of(&out)
    };
    let ours = run();
    let lpips = recorded("judge-lpips", "out.distance").concat();
    near(value(&ours, "lpips", "AlexNet"), lpips.iter().sum::<f64>() / 3.0, 1e-5);
    let [a, b] = sides(PAIRS, "clipscore", "out.image_embeds", "big");
    let clip_i: Vec<f64> = a.iter().zip(&b).map(|(a, b)| cosine(a, b)).collect();
    near(value(&ours, "clip_i", "CLIP at"), clip_i.iter().sum::<f64>() / 3.0, 2e-5);
    // One prompt has two images, which differ as two of the embeddings do.
    let diversity = value(&ours, "pairwise_cosine_distance", "CLIP at");
    near(diversity, 1.0 - cosine(&a[0], &a[1]), 2e-5);
    assert!(diversity["notes"].to_string().contains("over 1 prompts"), "{diversity}");
    // The model is another one than CMMD's.
    assert!(value(&ours, "clip_mmd", "CLIP at")["value"].as_f64().unwrap() > 0.0);
    let lines = std::fs::read_to_string(&per_image).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert!((first["clip_i"].as_f64().unwrap() - clip_i[0]).abs() < 2e-5);
    assert!((first["lpips"].as_f64().unwrap() - lpips[0]).abs() < 1e-5);
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("fid_pytorch") && page.contains("clip_mmd") && page.contains("biased upward"), "{page}");

    // Nothing is computed twice, and what a broken-off command has not kept is computed anew.
    let cache = dir.path().join("metrics.values.jsonl");
    let kept = std::fs::read(&cache).unwrap();
    assert_eq!(run(), ours);
    assert_eq!(std::fs::read(&cache).unwrap(), kept);
    std::fs::write(&cache, &kept[..kept.len() / 2]).unwrap();
    assert_eq!(run(), ours);
}

#[test]
fn fid_has_three_rules() {
    let dir = tempfile::tempdir().unwrap();
    let [images, reference] = folders(dir.path(), SETS);
    let out = dir.path().join("metrics.json");
    let mut command = metrics(&images, Some(&reference), &out);
    command.arg(network("inception", "judge-inception")).args(["--kid-subsets", "3"]);
    command.args(["--fid-rule", "pytorch-fid,clean-fid,torch-fidelity"]).assert().success();
    let ours = json_of(&out);
    for (rule, tensor) in [
        ("fid_pytorch", "out.features.2048"),
        ("fid_clean", "out.features.2048.fid_clean"),
        ("fid_tf1", "out.features.2048.fid_tf1"),
    ] {
        let [a, b] = sides(SETS, "judge-inception", tensor, "gray").map(|rows| statistics(&rows));
        let expected = fid::fid(&a, &b).unwrap();
        let metric = value(&ours, "fid", rule);
        near(metric, expected, 1e-3 * expected);
        assert!(metric["notes"][0].as_str().unwrap().contains("biased upward: 3 images"), "{metric}");
        assert_eq!(metric["weights_sha256"].as_str().unwrap().len(), 64);
        assert_eq!(value(&ours, "kid", rule)["notes"][0], "3 subsets of 3");
    }
}

#[test]
fn statistics_of_a_folder_are_a_reference() {
    let dir = tempfile::tempdir().unwrap();
    let [images, reference] = folders(dir.path(), SETS);
    let (out, npz) = (dir.path().join("metrics.json"), dir.path().join("reference.npz"));
    let inception = network("inception", "judge-inception");
    metrics(&reference, None, &out).arg(&inception).arg("--save-statistics").arg(&npz).assert().success();
    metrics(&images, Some(&npz), &out).arg(&inception).assert().success();
    let by_statistics = json_of(&out);
    metrics(&images, Some(&reference), &out).arg(&inception).assert().success();
    assert_eq!(by_statistics[0]["value"], value(&json_of(&out), "fid", "fid_pytorch")["value"]);
    let refused = |command: &mut Command, words: &str| {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(words), "{text}");
    };
    refused(&mut metrics(&images, Some(&npz), &out), "--inception: expected the network");
    refused(&mut metrics(&images, None, &out), "nothing is measured");
    refused(metrics(&images, None, &out).arg(&inception), "nothing is measured");
    refused(metrics(&images, None, &out).arg("--clip=/nowhere"), "no such file or folder");
    refused(metrics(&images, Some(&reference), &out).arg(network("inception", "judge-clip-b")), "no tensor");
    refused(
        metrics(&images, Some(&reference), &out)
            .arg(&inception)
            .args(["--fid-rule", "clean-fid,pytorch-fid"])
            .arg("--save-statistics")
            .arg(&npz),
        "one --fid-rule",
    );
}
