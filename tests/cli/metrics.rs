//! `selma metrics`, `selma spatial` and `selma associate`.

use std::collections::BTreeMap;
use std::path::Path;

use assert_cmd::Command;
use image::{Rgb, RgbImage};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use selma::formats::safetensors;
use selma::tensor::Tensor;
use serde_json::{Value, json};

fn in_folder(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = super::selma();
    command.current_dir(dir).args(arguments);
    command
}

fn features(path: &Path, n: usize, shift: f64) {
    let values = (0..n * 4).map(|i| (i as f64 * 0.7).sin() + shift).collect();
    let tensor = Tensor::new::<f64>(values, &[n, 4]);
    safetensors::write(path, &[("features".into(), tensor)], &BTreeMap::new()).unwrap();
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn features_give_distances_and_statistics_files_the_same_fid() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    features(&dir.join("a.safetensors"), 30, 0.0);
    features(&dir.join("b.safetensors"), 20, 1.0);
    let measure = |reference: &str, out: &str| {
        let arguments = ["metrics", "--images", "a.safetensors", "--reference", reference, "--out", out];
        in_folder(dir, &arguments).arg("--html").arg(format!("{out}.html")).assert().success();
        json_of(&dir.join(out))
    };
    let direct = measure("b.safetensors", "direct.json");
    assert_eq!(direct[0]["name"], "fid");
    assert!(direct[0]["value"].as_f64().unwrap() > 3.0, "{direct}");
    assert_eq!(direct[0]["n"], json!([30, 20]));
    assert_eq!((&direct[1]["name"], &direct[1]["notes"][0]), (&json!("kid"), &json!("100 subsets of 20")));
    let save = ["metrics", "--images", "b.safetensors", "--save-statistics", "b.npz", "--out", "none.json"];
    in_folder(dir, &save).assert().success();
    let by_statistics = measure("b.npz", "statistics.json");
    assert_eq!(by_statistics[0]["value"], direct[0]["value"]);
    assert_eq!(by_statistics.as_array().unwrap().len(), 1, "statistics have no KID");
    in_folder(dir, &save).assert().failure().stderr(contains("none.json: exists already"));
    let html = std::fs::read_to_string(dir.join("direct.json.html")).unwrap();
    assert!(html.contains("<td>kid</td>"));
    let clip = ["metrics", "--images", "a.safetensors", "--features", "clip", "--out", "clip.json", "--json"];
    let out = in_folder(dir, &clip).args(["--reference", "a.safetensors"]).assert().success();
    let metrics: Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
    let cmmd = metrics.as_array().unwrap().iter().find(|m| m["name"] == "cmmd").unwrap();
    assert!(cmmd["value"].as_f64().unwrap().abs() < 1e-9, "of a set and itself");
}

#[test]
fn images_are_compared_with_those_of_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (folder, name, grey) in [("a", "x.png", 100), ("a", "y.png", 7), ("b", "x.png", 110), ("b", "z.png", 7)] {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
        RgbImage::from_pixel(16, 16, Rgb([grey; 3])).save(dir.join(folder).join(name)).unwrap();
    }
    let arguments = ["metrics", "--images", "a", "--reference", "b", "--out", "m.json", "--per-image", "p.jsonl"];
    in_folder(dir, &arguments).assert().success().stdout(contains("no partner"));
    let metrics = json_of(&dir.join("m.json"));
    assert_eq!((&metrics[2]["name"], &metrics[2]["n"]), (&json!("psnr"), &json!([1, 1])));
    assert!((metrics[2]["value"].as_f64().unwrap() - 28.1308).abs() < 1e-3);
    let row = json_of(&dir.join("p.jsonl"));
    assert_eq!((&row["file_name"], &row["identical"]), (&json!("x.png"), &json!(false)));
    std::fs::remove_file(dir.join("b/x.png")).unwrap();
    in_folder(dir, &arguments).arg("--overwrite").assert().failure().stderr(contains("no image has the name"));
}

#[test]
fn a_suite_is_made_and_scored_by_detections() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let make = ["spatial", "make", "--objects", "cube,orange,cone", "--relations", "above,between,in front of"];
    in_folder(dir, &make).args(["--count", "1", "--out", "s.json"]).assert().success().stdout(contains("5 prompts, 2"));
    in_folder(dir, &make)
        .args(["--count", "9", "--out", "t.json"])
        .assert()
        .code(2)
        .stderr(contains("different prompts"));
    let suite = json_of(&dir.join("s.json"));
    let above = &suite[0];
    let (a, b) = (above["relations"][0]["a"].as_str().unwrap(), above["relations"][0]["b"].as_str().unwrap());
    assert_eq!(suite[1]["swap_of"], above["id"]);
    assert_eq!(above["questions"][2]["q"], format!("Is the {a} above the {b}?"));
    let at = |label: &str, y: f64| json!({"label": label, "score": 0.9, "box": [0.0, y, 10.0, y + 10.0]});
    let mut found = serde_json::Map::new();
    for (k, place) in [0.0, 0.0, 90.0, 50.0].into_iter().enumerate() {
        found.insert(format!("{}_{k}", above["id"].as_str().unwrap()), json!([at(a, place), at(b, 50.0)]));
    }
    found.insert(format!("{}_0", suite[4]["id"].as_str().unwrap()), json!([]));
    std::fs::write(dir.join("d.json"), Value::Object(found.clone()).to_string()).unwrap();
    let score = ["spatial", "score", "--prompts", "s.json", "--detections", "d.json"];
    in_folder(dir, &score).args(["--out", "r.json"]).assert().success().stdout(contains("boxes cannot tell"));
    let report = json_of(&dir.join("r.json"));
    let row = &report["relations"]["above"];
    assert_eq!((&row["OA"], &row["uncond"], &row["opposite"]), (&json!(100.0), &json!(50.0), &json!(1)));
    assert_eq!(report["not_told_by_boxes"], json!(["in front of"]));
    found.insert("other_7_0".into(), json!([]));
    std::fs::write(dir.join("d.json"), Value::Object(found).to_string()).unwrap();
    in_folder(dir, &score)
        .assert()
        .failure()
        .stderr(contains("d.json").and(contains("no prompt has the id `other_7`")));
}

#[test]
fn groups_and_replies_are_scored() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let groups = "{\"similarity\": [[0.3, 0.2, 0.1], [0.4, 0.35, 0.1], [0.1, 0.2, 0.5]]}\n";
    std::fs::write(dir.join("g.jsonl"), groups).unwrap();
    let replies = "{\"response\": \"[Picture 2]\", \"truth_fig_idx\": 1}\n{\"response\": \"[Picture 1]\", \"answer\": \"[Picture 2]\"}\n";
    std::fs::write(dir.join("r.jsonl"), replies).unwrap();
    let arguments = ["associate", "--similarities", "g.jsonl", "--replies", "r.jsonl", "--json"];
    let out = in_folder(dir, &arguments).assert().success();
    let report: Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
    assert_eq!(report["groups"][0]["exact"], 1.0);
    assert_eq!(report["groups"][1]["per_picture"], 2.0 / 3.0);
    let accuracies: Vec<&Value> = report["replies"].as_array().unwrap().iter().map(|row| &row["accuracy"]).collect();
    assert_eq!(accuracies, [&json!(0.0), &json!(1.0)]);
    std::fs::write(dir.join("r.jsonl"), "{\"response\": \"\"}\n").unwrap();
    in_folder(dir, &["associate", "--replies", "r.jsonl"])
        .assert()
        .failure()
        .stderr(contains("line 1: expected `answer`"));
    std::fs::write(dir.join("g.jsonl"), "{\"similarity\": [[1, 2]]}\n").unwrap();
    in_folder(dir, &["associate", "--similarities", "g.jsonl"]).assert().failure().stderr(contains("square"));
}
