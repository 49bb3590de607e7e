//! Runs whose questions a file of answers answers, which says what it lacks.

use std::path::Path;

use serde_json::{Value, json};

use crate::asked::asked;
use crate::{json, run, says};

#[test]
fn a_file_of_answers_is_asked_for_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let questions = json!([
        {"id": "coco_1", "caption": "a cat", "question": "what is it?", "choices": ["a cat", "a dog"], "answer": "a cat",
         "element_type": "animal"},
        {"id": "coco_2", "caption": "a dog", "question": "is it a dog?", "choices": ["yes", "no"], "answer": "yes",
         "element_type": "animal"},
        {"id": "drawbench_3", "caption": "a red cow", "question": "how many?", "choices": ["1", "2"], "answer": "1",
         "element_type": "counting"},
    ]);
    std::fs::write(dir.path().join("tifa.json"), questions.to_string()).unwrap();
    let file = asked(
        dir.path(),
        "benchmark = \"tifa\"\nquestions = \"tifa.json\"\n",
        "\n[judge]\nanswers = \"answers.jsonl\"\nmodel = \"blip\"\n",
    );
    let out = dir.path().join("out");
    says(run(&file, &out), 1, &["answers.jsonl", "no answer to 9 questions"]);
    std::fs::write(
        dir.path().join("answers.jsonl"),
        "{\"item_id\": \"coco_1\", \"question_id\": 1, \"answer\": \"a cat\"}\n",
    )
    .unwrap();
    says(run(&file, &out), 1, &["answers.jsonl", "no answer to 6 questions", "evaluate.unanswered.jsonl"]);
    // Two questions about the images of base, all-in-one and merged; an answer in each row is all that it takes.
    let list = out.join("judge/evaluate.unanswered.jsonl");
    let rows = selma::formats::jsonl::read::<Value>(&list).unwrap();
    let mut answered = std::fs::read_to_string(dir.path().join("answers.jsonl")).unwrap();
    for (_, mut row) in rows {
        assert!(out.join(row["image"].as_str().unwrap()).is_file(), "{row}");
        let merged = row["file_name"].as_str().unwrap().starts_with("merged/");
        row["answer"] = if merged { row["choices"][0].clone() } else { "2".into() };
        answered += &format!("{row}\n");
    }
    std::fs::write(dir.path().join("answers.jsonl"), answered).unwrap();
    let modified = || {
        let image = std::fs::metadata(out.join("evaluate/base/tifa/seed-42/00000.png"));
        image.unwrap().modified().unwrap()
    };
    let drawn = modified();
    let outcome = json(run(&file, &out));
    assert_eq!(outcome["done"], json!(["evaluate", "report"]));
    assert_eq!(modified(), drawn);
    let arms = outcome["summary"]["arms"].as_array().unwrap();
    let names: Vec<(&str, f64)> =
        arms.iter().map(|arm| (arm["name"].as_str().unwrap(), arm["overall"]["mean"].as_f64().unwrap())).collect();
    // "2" is a choice of the last question, and the first choice of the second where nothing fits.
    assert_eq!(names, [("base", 2.0 / 3.0), ("all-in-one", 2.0 / 3.0), ("merged", 1.0)]);
    assert_eq!(outcome["summary"]["judge"], "answers of blip");
    assert!(!list.exists());
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    for text in ["drawbench", "coco", "answers rightly", "3 prompts, 1 images"] {
        assert!(page.contains(text), "{text}");
    }
    // Another answer scores anew, and draws nothing.
    let other =
        std::fs::read_to_string(dir.path().join("answers.jsonl")).unwrap().replacen("\"a cat\"", "\"a dog\"", 1);
    std::fs::write(dir.path().join("answers.jsonl"), other).unwrap();
    assert_eq!(json(run(&file, &out))["summary"]["arms"][2]["overall"]["mean"], 2.0 / 3.0);
    assert_eq!(modified(), drawn);
}

/// Fills in what a run could not know: an answer that follows from the image's name.
fn answer(list: &Path, answers: &Path) -> usize {
    let rows = selma::formats::jsonl::read::<Value>(list).unwrap();
    let count = rows.len();
    let mut text = std::fs::read_to_string(answers).unwrap_or_default();
    for (_, mut row) in rows {
        let name = row["file_name"].as_str().unwrap();
        row["answer"] = if name.contains("draw-1") { "yes" } else { "no" }.into();
        text += &format!("{row}\n");
    }
    std::fs::write(answers, text).unwrap();
    count
}

#[test]
fn images_are_selected_by_a_file_of_answers() {
    let dir = tempfile::tempdir().unwrap();
    let file = asked(
        dir.path(),
        "benchmark = \"dsg\"\nprompts = 1\n",
        "\n[judge]\nanswers = \"answers.jsonl\"\n[select]\nrule = \"best-of:2\"\n",
    );
    let (out, answers) = (dir.path().join("out"), dir.path().join("answers.jsonl"));
    // Two images of each of three prompts, two questions about each; both skills wait at once.
    says(run(&file, &out), 1, &["answers.jsonl", "no answer to 12 questions"]);
    for skill in ["counting", "spatial"] {
        let list = out.join(format!("judge/select/{skill}.unanswered.jsonl"));
        assert_eq!(answer(&list, &answers), 12, "{skill}");
    }
    says(run(&file, &out), 1, &["evaluate.unanswered.jsonl"]);
    for skill in ["counting", "spatial"] {
        let chosen = out.join(format!("select/{skill}/chosen/metadata.jsonl"));
        let rows = selma::formats::jsonl::read::<Value>(&chosen).unwrap();
        assert_eq!(rows.len(), 3);
        for (_, row) in rows {
            assert!(row["source"].as_str().unwrap().contains("draw-1"), "{row}");
            assert_eq!(row["score"], 1.0);
        }
    }
    let trained = std::fs::read(out.join("experts/counting-selected/lora.safetensors")).unwrap();
    answer(&out.join("judge/evaluate.unanswered.jsonl"), &answers);
    let outcome = json(run(&file, &out));
    assert_eq!(outcome["done"], json!(["evaluate", "report"]));
    assert_eq!(outcome["summary"]["arms"][3]["name"], "merged-selected");
    assert!(trained == std::fs::read(out.join("experts/counting-selected/lora.safetensors")).unwrap());
}
