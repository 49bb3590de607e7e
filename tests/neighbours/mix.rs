//! `selma mix`: classes with odd names, pairs, and a filter whose CLIP knows two colours.

use std::collections::BTreeMap;
use std::path::Path;

use image::{Rgb, RgbImage};
use selma::formats::safetensors;
use selma::tensor::Tensor;
use serde_json::Value;

use crate::{bytes, run, says};

const RED: Rgb<u8> = Rgb([230, 20, 20]);
const BLUE: Rgb<u8> = Rgb([20, 20, 230]);

fn class(dir: &Path, name: &str, colour: Rgb<u8>) {
    let folder = dir.join("classes").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    RgbImage::from_pixel(32, 32, colour).save(folder.join("1.png")).unwrap();
}

fn labels(dir: &Path, out: &str) -> Vec<Value> {
    let text = String::from_utf8(bytes(&dir.join(out).join("labels.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Ids of words in CLIP's vocabulary.
const WORD: [(usize, [f32; 4]); 3] =
    [(736, [1.0, -1.0, 0.0, 0.0]), (1746, [-1.0, 1.0, 0.0, 0.0]), (2193, [0.0, 0.0, 1.0, -1.0])];

/// A CLIP that knows `red`, `blue` and `without`, and whether an image is rather red or rather blue: a first layer that takes
/// the mean of all tokens, and nothing else. An image's embedding is (+-1, 0), a class's (+-1, 0), and (+-1, 1) behind `without`.
fn colour_clip(dir: &Path) -> String {
    let to = dir.join("colours");
    std::fs::create_dir(&to).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/models/judge-clip-b");
    for name in ["config.json", "preprocessor_config.json"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    let mut put = |name: String, shape: &[usize], at: &dyn Fn(usize) -> f32| {
        let values = (0..shape.iter().product()).map(at).collect();
        tensors.push((name, Tensor::new(values, shape)));
    };
    let mut tower = |prefix: &str, width: usize, inner: usize| {
        for layer in 0..3 {
            let name = |part: &str| format!("{prefix}.encoder.layers.{layer}.{part}");
            let one = if layer == 0 { 1.0 } else { 0.0 };
            for norm in ["layer_norm1", "layer_norm2"] {
                put(name(&format!("{norm}.weight")), &[width], &|_| 1.0);
                put(name(&format!("{norm}.bias")), &[width], &|_| 0.0);
            }
            for part in ["q", "k", "v", "out"] {
                let mixes = if matches!(part, "v" | "out") { one } else { 0.0 };
                let identity = |i: usize| if i / width == i % width { mixes } else { 0.0 };
                put(name(&format!("self_attn.{part}_proj.weight")), &[width, width], &identity);
                put(name(&format!("self_attn.{part}_proj.bias")), &[width], &|_| 0.0);
            }
            put(name("mlp.fc1.weight"), &[inner, width], &|_| 0.0);
            put(name("mlp.fc1.bias"), &[inner], &|_| 0.0);
            put(name("mlp.fc2.weight"), &[width, inner], &|_| 0.0);
            put(name("mlp.fc2.bias"), &[width], &|_| 0.0);
        }
    };
    tower("vision_model", 32, 64);
    tower("text_model", 16, 48);
    for (norm, width) in
        [("vision_model.pre_layrnorm", 32), ("vision_model.post_layernorm", 32), ("text_model.final_layer_norm", 16)]
    {
        put(format!("{norm}.weight"), &[width], &|_| 1.0);
        put(format!("{norm}.bias"), &[width], &|_| 0.0);
    }
    // Red less blue in the first channel, its negative in the second.
    let patch = |i: usize| match (i / 192, i % 192 / 64) {
        (0, 0) | (1, 2) => 1.0 / 64.0,
        (0, 2) | (1, 0) => -1.0 / 64.0,
        _ => 0.0,
    };
    put("vision_model.embeddings.patch_embedding.weight".into(), &[32, 3, 8, 8], &patch);
    put("vision_model.embeddings.class_embedding".into(), &[32], &|_| 0.0);
    put("vision_model.embeddings.position_embedding.weight".into(), &[17, 32], &|_| 0.0);
    put("text_model.embeddings.position_embedding.weight".into(), &[77, 16], &|_| 0.0);
    let row = |i: usize| {
        let word = WORD.iter().find(|(id, _)| *id == i / 16);
        word.and_then(|(_, values)| values.get(i % 16)).copied().unwrap_or(0.0)
    };
    put("text_model.embeddings.token_embedding.weight".into(), &[49408, 16], &row);
    let pairs = |width: usize| {
        move |i: usize| match (i / width, i % width) {
            (0, 0) | (1, 2) => 1.0,
            (0, 1) | (1, 3) => -1.0,
            _ => 0.0,
        }
    };
    put("visual_projection.weight".into(), &[24, 32], &pairs(32));
    put("text_projection.weight".into(), &[24, 16], &pairs(16));
    put("logit_scale".into(), &[], &|_| 4.6);
    safetensors::write(&to.join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    to.display().to_string()
}

/// What an image shows decides, not what it was drawn for: the embeddings are planted, so the answer is known.
#[test]
fn the_filter_keeps_what_shows_its_class() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    class(dir, "red thing", RED);
    class(dir, "blue thing", BLUE);
    let mix = ["mix", "generate", "--model", "shapes", "--data", "classes", "--steps", "2", "--strengths", "0.5"];
    run(dir, &[&mix[..], &["--multiplier", "5", "--out", "mixed"]].concat());
    let labels = labels(dir, "mixed");
    assert_eq!(labels.len(), 10);
    let mut expected = Vec::new();
    for (i, label) in labels.iter().enumerate() {
        let file = label["file"].as_str().unwrap();
        let red = i % 3 == 0;
        RgbImage::from_pixel(40, 32, if red { RED } else { BLUE }).save(dir.join("mixed/data").join(file)).unwrap();
        if (label["target"] == 1) == red {
            expected.push(file.to_owned());
        }
    }
    assert!(!expected.is_empty() && expected.len() < 10, "both kinds of decisions");
    let clip = colour_clip(dir);
    let report: Value =
        serde_json::from_str(&run(dir, &["mix", "filter", "--images", "mixed", "--clip", &clip, "--json"])).unwrap();
    assert_eq!(report["kept"], expected.len());
    let kept = String::from_utf8(bytes(&dir.join("mixed/labels.kept.jsonl"))).unwrap();
    let kept: Vec<String> = kept
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["file"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kept, expected);
    let scores = String::from_utf8(bytes(&dir.join("mixed/filter.jsonl"))).unwrap();
    for line in scores.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let (with, without) = (row["with"].as_f64().unwrap(), row["without"].as_f64().unwrap());
        let sign = if row["kept"] == true { 1.0 } else { -1.0 };
        assert!((with - sign).abs() < 1e-4 && (without - sign / 2f64.sqrt()).abs() < 1e-4, "{row}");
    }
}

#[test]
fn classes_may_have_any_name_that_a_folder_has() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let names = ["-dash", "a, \"quoted\" one", "cat-7", "ünïcode 猫", "<script>", "100%"];
    for name in names {
        class(dir, name, RED);
    }
    let mix = ["mix", "generate", "--model", "shapes", "--data", "classes", "--steps", "2", "--mode", "gen"];
    run(dir, &[&mix[..], &["--multiplier", "3", "--out", "out"]].concat());
    let mut sorted = names;
    sorted.sort_unstable();
    let mut table = csv::Reader::from_path(dir.join("out/meta.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    let labels = labels(dir, "out");
    assert_eq!((rows.len(), labels.len()), (18, 18));
    for row in &rows {
        // The names come back, and the paths are those of the labels and of files that are there.
        let label = labels.iter().find(|label| label["file"] == row[4]).unwrap();
        assert_eq!(&row[1], sorted[label["target"].as_u64().unwrap() as usize]);
        assert!(dir.join("out/data").join(&row[4]).is_file(), "{row:?}");
    }
    let again = |words: &[&str]| says(dir, &[&mix[..], &["--out", "no"]].concat(), 1, words);
    class(dir, "two\nlines", BLUE);
    again(&["a class is named by its folder"]);
    std::fs::remove_dir_all(dir.join("classes/two\nlines")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let odd = dir.join("classes").join(std::ffi::OsStr::from_bytes(b"b\xffd"));
        std::fs::create_dir(&odd).unwrap();
        again(&["expected UTF-8"]);
        std::fs::remove_dir(&odd).unwrap();
    }
    class(dir, "cat/7", BLUE);
    again(&["a class without images"]);
    std::fs::remove_dir_all(dir.join("classes/cat")).unwrap();
    class(dir, "a__b", BLUE);
    class(dir, "a _b", BLUE);
    again(&["have one path, `a__b`"]);
    assert!(!dir.join("no").exists(), "nothing is begun");
}
