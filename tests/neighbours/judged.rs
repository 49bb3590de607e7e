//! `selma spatial` by questions and by layouts, `selma associate` on images, quality measures, `selma survey`, `selma search`.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::{Answer, Server};
use crate::{bytes, killed, photos, run, says};

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap()
}

#[test]
fn relations_are_judged_by_questions_and_by_layouts() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let make = ["spatial", "make", "--objects", "circle,square,star", "--relations", "above,behind", "--count", "1"];
    run(dir, &[&make[..], &["--out", "suite.json", "--questions", "questions.csv"]].concat());
    let suite = json_of(&dir.join("suite.json"));
    let ids: Vec<&str> = suite.as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["above_0000", "above_0000s", "behind_0000", "behind_0000s"]);
    let draw = ["generate", "--model", "shapes", "--prompts", "suite.json", "--steps", "1", "--images-per-prompt", "2"];
    run(dir, &[&draw[..], &["--out", "images"]].concat());
    // Both objects everywhere, the relation in the first image of each prompt alone; the last prompt lacks an object.
    let mut answers = String::new();
    for (number, id) in ids.iter().enumerate() {
        for copy in 0..2 {
            for question in 1..=3 {
                let yes = match question {
                    3 => copy == 0,
                    question => number < 3 || question == 1,
                };
                let row = json!({"item_id": id, "question_id": question, "file_name": format!("{:05}.png", 2 * number + copy),
                                 "answer": if yes { "yes" } else { "no" }});
                answers += &format!("{row}\n");
            }
        }
    }
    std::fs::write(dir.join("answers.jsonl"), answers).unwrap();
    let eval = [
        "eval",
        "--benchmark",
        "dsg",
        "--questions",
        "questions.csv",
        "--answers",
        "answers.jsonl",
        "--images",
        "images",
    ];
    run(dir, &[&eval[..], &["--out", "scores.json"]].concat());
    let score = ["spatial", "score", "--prompts", "suite.json"];
    let report: Value =
        serde_json::from_str(&run(dir, &[&score[..], &["--scores", "scores.json", "--json"]].concat())).unwrap();
    let number = |of: &str, key: &str| report["relations"][of][key].as_f64().unwrap();
    assert_eq!((number("above", "OA"), number("above", "uncond"), number("above", "VISOR_1")), (100.0, 50.0, 100.0));
    // What boxes cannot tell, questions can: a relation counts where both objects are there.
    assert_eq!((number("behind", "OA"), number("behind", "uncond"), number("behind", "object_A")), (50.0, 25.0, 100.0));

    let upright =
        r#"{"objects": [{"label": "X", "box": [10, 10, 60, 60]}, {"label": "Y", "box": [10, 200, 60, 260]}]}"#;
    let mut replies = String::new();
    for prompt in suite.as_array().unwrap() {
        let [a, b] = [0, 1].map(|i| prompt["objects"][i].as_str().unwrap());
        let text = upright.replace('X', a).replace('Y', b);
        let text = if prompt["id"] == "above_0000s" { "I cannot".into() } else { format!("Sure: {text}") };
        replies += &format!("{}\n", json!({"reply": text}));
    }
    std::fs::write(dir.join("replies.jsonl"), &replies).unwrap();
    let layout = ["spatial", "layout", "--prompts", "suite.json", "--replay", "replies.jsonl", "--out", "layouts.json"];
    assert!(run(dir, &[&layout[..], &["--images", "scenes"]].concat()).contains("4 scenes, 1 replies without"));
    assert_eq!(image::open(dir.join("scenes/above_0000_0.png")).unwrap().to_rgb8().dimensions(), (512, 512));
    let laid: Value =
        serde_json::from_str(&run(dir, &[&score[..], &["--detections", "layouts.json", "--json"]].concat())).unwrap();
    assert_eq!((&laid["relations"]["above"]["uncond"], &laid["not_told_by_boxes"]), (&json!(50.0), &json!(["behind"])));
    std::fs::write(dir.join("replies.jsonl"), replies.lines().next().unwrap()).unwrap();
    says(dir, &[&layout[..6], &["--out", "short.json"]].concat(), 1, &["ends after 1 of 4", "--llm"]);
    std::fs::write(dir.join("unknown.json"), r#"{"nothing_0": []}"#).unwrap();
    says(
        dir,
        &[&score[..], &["--detections", "unknown.json"]].concat(),
        1,
        &["unknown.json", "no prompt has the id `nothing`"],
    );
    std::fs::write(dir.join("bad.json"), suite.to_string().replace("above_0000s", "../x")).unwrap();
    let outside = ["spatial", "layout", "--prompts", "bad.json", "--replay", "replies.jsonl", "--out", "x.json"];
    says(dir, &outside, 1, &["bad.json", "`../x`"]);
}

#[test]
fn images_are_told_apart_by_their_texts() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let prompts = ["a red circle", "a blue circle", "a green star", "a yellow heart"];
    std::fs::write(dir.join("prompts.txt"), prompts.join("\n")).unwrap();
    run(
        dir,
        &[
            "generate",
            "--model",
            "shapes",
            "--prompts",
            "prompts.txt",
            "--steps",
            "1",
            "--images-per-prompt",
            "2",
            "--out",
            "images",
        ],
    );
    // It answers in the order of the texts as they are listed, always by the right image, and with the images' own order.
    let judge = Server::start(|_, request| {
        let parts = request.body["messages"][0]["content"].as_array().unwrap().clone();
        assert_eq!(parts.len(), 3, "the request and two images");
        Answer::Json(
            200,
            json!({"choices": [{"message": {"content": "[Picture 1] [Picture 2]"}, "finish_reason": "stop"}]}),
        )
    });
    let clip = crate::clip(dir);
    let command =
        ["associate", "--images", "images", "--groups", "2", "--clip", &clip, "--out", "first.json", "--json"];
    let report: Value =
        serde_json::from_str(&run(dir, &[&command[..], &["--llm", &judge.url, "--llm-model", "eyes"]].concat()))
            .unwrap();
    assert_eq!(judge.seen().len(), 2, "two groups of two");
    let rows = report["judged"]["clip"]["scores"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "assignment and argmax");
    assert!(rows.iter().all(|row| row["groups"] == 2 && row["k"] == 2));
    assert_eq!(report["made_groups"].as_array().unwrap().len(), 2);
    // The texts are shuffled: whether "1 2" is right is in the recorded request.
    let recorded = std::fs::read_to_string(dir.join("first.replies.jsonl")).unwrap();
    let mut right = 0;
    for (line, group) in recorded.lines().zip(report["made_groups"].as_array().unwrap()) {
        let record: Value = serde_json::from_str(line).unwrap();
        let number: usize = group["images"][0].as_str().unwrap()[..5].parse().unwrap();
        right +=
            usize::from(record["prompt"].as_str().unwrap().contains(&format!("Text 1: {}\n", prompts[number / 2])));
    }
    assert_eq!(report["judged"]["language_model"][0]["exact"], json!(right as f64 / 2.0));
    let replay = [
        "associate",
        "--images",
        "images",
        "--groups",
        "2",
        "--clip",
        &clip,
        "--replay",
        "first.replies.jsonl",
        "--json",
    ];
    let again: Value = serde_json::from_str(&run(dir, &replay)).unwrap();
    assert_eq!(again["judged"], report["judged"]);
    says(
        dir,
        &["associate", "--images", "images", "--groups", "5", "--clip", &clip],
        2,
        &["--groups 5", "4 different prompts"],
    );
}

#[test]
fn scores_of_a_run_become_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("prompts.txt"), "a red circle\na blue star\n").unwrap();
    let draw = ["generate", "--model", "shapes", "--prompts", "prompts.txt", "--steps", "2", "--out"];
    run(dir, &[&draw[..], &["images"]].concat());
    run(dir, &[&draw[..], &["others", "--seed", "3"]].concat());
    run(dir, &["eval", "--benchmark", "shapes", "--judge", "builtin", "--images", "images", "--out", "shapes.json"]);
    for measure in ["sharpness", "noise", "exposure"] {
        run(dir, &["eval", "--benchmark", measure, "--images", "images", "--out", &format!("{measure}.json")]);
    }
    says(
        dir,
        &["eval", "--benchmark", "noise", "--judge", "builtin", "--images", "images", "--out", "x"],
        2,
        &["without --judge"],
    );
    run(dir, &["metrics", "--images", "images", "--reference", "others", "--out", "pairs.json"]);
    let files = ["shapes.json", "sharpness.json", "noise.json", "exposure.json"];
    let survey =
        [&["survey", "--scores"][..], &files, &["--metrics", "pairs.json", "--out", "all.json", "--html", "all.html"]]
            .concat();
    run(dir, &survey);
    let all = json_of(&dir.join("all.json"));
    let names: Vec<&str> = all.as_array().unwrap().iter().map(|metric| metric["name"].as_str().unwrap()).collect();
    assert_eq!(names[..5], ["shapes", "shapes questions", "sharpness", "noise", "exposure"]);
    assert!(names.contains(&"psnr"));
    let html = std::fs::read_to_string(dir.join("all.html")).unwrap();
    assert!(names.iter().all(|name| html.contains(name)) && html.contains("95 % interval"));
    says(dir, &survey, 1, &["all.json", "--overwrite"]);
    says(dir, &["survey", "--scores", "shapes.json", "shapes.json", "--out", "x.json"], 1, &["shapes", "twice"]);
    says(dir, &["survey", "--metrics", "shapes.json", "--out", "x.json"], 1, &["shapes.json", "not a metrics file"]);
    // An expert for an aspect: the best by one measure are a training folder.
    run(dir, &["select", "--images", "images", "--by", "sharpness.json", "--rule", "top:0.5", "--out", "sharp"]);
    assert_eq!(std::fs::read_to_string(dir.join("sharp/metadata.jsonl")).unwrap().lines().count(), 1);
}

#[test]
fn weights_are_searched_on_a_validation_score() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photos(dir, "photos", selma::shapes::Skill::Everyday, 3);
    let train = [
        "train",
        "--model",
        "shapes",
        "--data",
        "photos",
        "--rank",
        "2",
        "--steps",
        "2",
        "--batch-size",
        "1",
        "--grad-accum",
        "1",
    ];
    run(dir, &[&train[..], &["--lr", "1e-2", "--out", "a"]].concat());
    std::fs::copy(dir.join("a/lora.safetensors"), dir.join("a.safetensors")).unwrap();
    std::fs::write(dir.join("prompts.txt"), "a red circle\na blue star\n").unwrap();
    let search = |out: &'static str| {
        [
            "search",
            "--model",
            "shapes",
            "--lora",
            "a.safetensors",
            "--prompts",
            "prompts.txt",
            "--benchmark",
            "exposure",
            "--grid",
            "0,0.5",
            "--steps",
            "2",
            "--out",
            out,
        ]
    };
    run(dir, &search("whole"));
    let trials = std::fs::read_to_string(dir.join("whole/search.jsonl")).unwrap();
    let trials: Vec<Value> = trials.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let weights: Vec<&Value> = trials.iter().map(|trial| &trial["weights"]).collect();
    assert_eq!(weights, [&json!([1.0]), &json!([0.0]), &json!([0.5])], "each once");
    let best = trials.iter().max_by(|a, b| a["score"].as_f64().partial_cmp(&b["score"].as_f64()).unwrap()).unwrap();
    let merged = selma::lora::load(&dir.join("whole/merged.safetensors"), None, false).unwrap();
    let inputs: Value = serde_json::from_str(&merged.metadata["selma.inputs"]).unwrap();
    assert_eq!(inputs[0]["weight"], best["weights"][0]);
    killed(dir, &search("broken"), "\"score\"");
    says(dir, &search("broken"), 1, &["settings.json", "--resume"]);
    run(dir, &[&search("broken")[..], &["--resume"]].concat());
    for file in ["search.jsonl", "merged.safetensors"] {
        assert_eq!(bytes(&dir.join("whole").join(file)), bytes(&dir.join("broken").join(file)), "{file}");
    }
    let other = [&search("broken")[..], &["--resume", "--seed", "9"]].concat();
    says(dir, &other, 1, &["other settings"]);
    says(dir, &[&search("x")[..7], &["--benchmark", "beauty", "--out", "x"]].concat(), 2, &["beauty", "clipscore"]);
}
