//! `selma chat` and `selma mix` on the built-in model.

use std::path::Path;

use image::{Rgb, RgbImage};
use predicates::str::contains;
use serde_json::{Value, json};

use super::{drawn, selma};

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A dialogue without its images.
fn replies(path: &Path) {
    let replies = [
        "Here: <image id=\"1\">a photo of a red circle</image>",
        "<edit prev_id=1 strength=\"high\">a photo of a blue circle</edit> and <select>1</select>",
        "<variation>99</variation> Sorry.",
    ];
    let turn = |(i, raw): (usize, &str)| {
        let user = json!({"role": "user", "turn": i + 1, "text": "go on"});
        let assistant = json!({"role": "assistant", "turn": i + 1, "raw": raw, "shown": "", "errors": []});
        format!("{user}\n{assistant}\n")
    };
    let text: String = replies.into_iter().enumerate().map(turn).collect();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_recorded_dialogue_draws_the_same_again() {
    let dir = tempfile::tempdir().unwrap();
    let (recording, first, second) = (dir.path().join("r.jsonl"), dir.path().join("a"), dir.path().join("b"));
    replies(&recording);
    let chat = |replay: &Path, out: &Path| {
        let mut command = selma();
        command.args(["chat", "--model", "shapes", "--steps", "2", "--replay"]).arg(replay).arg("--out").arg(out);
        command
    };
    chat(&recording, &first).assert().success().stdout(contains("image 3: ")).stderr(contains("unknown image id 99"));
    let events = lines(&first.join("dialogue.jsonl"));
    let tools: Vec<&Value> = events.iter().filter(|event| event["role"] == "tool").collect();
    assert_eq!(tools.len(), 3);
    assert_eq!((&tools[1]["parent"], &tools[1]["strength"]), (&json!("1"), &json!(0.75)));
    assert_eq!(tools[2]["sha256"], tools[0]["sha256"], "an alias");
    assert_eq!(drawn(&first).len(), 2);
    // The dialogue that was written is itself a recording.
    chat(&first.join("dialogue.jsonl"), &second).assert().success().stderr(contains("as it was recorded"));
    assert_eq!(drawn(&first), drawn(&second));
    chat(&recording, &first).assert().failure().stderr(contains("is a dialogue already"));
    std::fs::remove_file(first.join("2.png")).unwrap();
    chat(&second.join("dialogue.jsonl"), &first).arg("--resume").assert().success();
    assert_eq!(drawn(&first), drawn(&second));
    let other = dir.path().join("c");
    chat(&first.join("dialogue.jsonl"), &other).args(["--seed", "5"]).assert().failure().stderr(contains("differs"));
}

#[test]
fn images_between_classes_have_soft_labels_and_are_completed() {
    let dir = tempfile::tempdir().unwrap();
    for (class, grey) in [("red circle", 60), ("blue square", 180)] {
        let folder = dir.path().join("data").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        RgbImage::from_pixel(20, 24, Rgb([grey; 3])).save(folder.join("1.png")).unwrap();
    }
    let mix_with = |strengths: &str, out: &str| {
        let mut command = selma();
        command
            .current_dir(dir.path())
            .args(["mix", "generate", "--model", "shapes", "--data", "data", "--steps", "4"]);
        command.args(["--multiplier", "2", "--strengths", strengths, "--out", out]);
        command
    };
    let mix = |out: &str| mix_with("0.5,0.75", out);
    mix("a").assert().success().stdout(contains("4 images of 2 classes"));
    let labels = lines(&dir.path().join("a/labels.jsonl"));
    assert_eq!(labels.len(), 4);
    for label in &labels {
        let shares: f64 = label["label"].as_object().unwrap().values().map(|share| share.as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-12, "{label}");
        let image = dir.path().join("a/data").join(label["file"].as_str().unwrap());
        assert_eq!(image::open(&image).unwrap().to_rgb8().dimensions(), (20, 24), "its size of before");
    }
    let table = std::fs::read_to_string(dir.path().join("a/meta.csv")).unwrap();
    assert!(table.starts_with("First Directory,Second Directory,Number,Strength,Path\n"), "{table}");
    mix("a").assert().failure().stderr(contains("--resume"));
    let first = dir.path().join("a/data").join(labels[0]["file"].as_str().unwrap());
    let bytes = std::fs::read(&first).unwrap();
    std::fs::remove_file(&first).unwrap();
    mix("a").arg("--resume").assert().success();
    assert_eq!(std::fs::read(&first).unwrap(), bytes);
    mix("a").args(["--resume", "--gamma", "1"]).assert().failure().stderr(contains("other settings"));
    mix_with("0.1", "b").assert().code(2).stderr(contains("too small for 4 steps"));
}
