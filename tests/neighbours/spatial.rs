//! `selma spatial` with prompts of two relations.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{bytes, run, says};

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap()
}

/// Where A, B and C are so that the relations above or below hold, or do not.
fn boxes(prompt: &Value, first: bool, second: bool) -> Value {
    let up = |i: usize| prompt["relations"][i]["prep"] == "above";
    let at = |label: &Value, y: f64| json!({"label": label, "score": 0.9, "box": [0.0, y, 10.0, y + 10.0]});
    // A is in the middle; B is on the other side of what is said of A, C on the side that is said of it.
    let b = if up(0) == first { 80.0 } else { 20.0 };
    let c = if up(1) == second { 20.0 } else { 80.0 };
    json!([at(&prompt["objects"][0], 50.0), at(&prompt["objects"][1], b), at(&prompt["objects"][2], c)])
}

#[test]
fn two_relations_are_scored_one_by_one_and_together() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let make = ["spatial", "make", "--objects", "apple,ball,cone,drum", "--relations", "above,below", "--count", "0"];
    let two = [&make[..], &["--two-relations", "6", "--out", "suite.json", "--questions", "q.csv"]].concat();
    assert!(run(dir, &two).contains("12 prompts, 6 of them partners"));
    let suite = json_of(&dir.join("suite.json"));
    let suite = suite.as_array().unwrap();
    let mut texts: Vec<&str> = suite.iter().map(|prompt| prompt["prompt"].as_str().unwrap()).collect();
    for pair in suite.chunks(2) {
        let name = |prompt: &Value, i: usize| prompt["objects"][i].as_str().unwrap().to_owned();
        let (a, b, c) = (name(&pair[0], 0), name(&pair[0], 1), name(&pair[0], 2));
        let prep = |i: usize| pair[0]["relations"][i]["prep"].as_str().unwrap();
        let article = |noun: &str| if noun == "apple" { "an" } else { "a" };
        let text = format!(
            "{} {a} {} {} {b}, with {} {c} {} the {a}",
            article(&a),
            prep(0),
            article(&b),
            article(&c),
            prep(1)
        );
        assert_eq!(pair[0]["prompt"], text);
        assert_eq!(
            pair[0]["questions"][4],
            json!({"id": 5, "q": format!("Is the {c} {} the {a}?", prep(1)), "parents": [1, 3]})
        );
        // The partner has A and B exchanged, also where C is said to be.
        assert_eq!((&pair[1]["swap_of"], name(&pair[1], 0), name(&pair[1], 1)), (&pair[0]["id"], b.clone(), a.clone()));
        assert_eq!(pair[1]["relations"][1], json!({"prep": prep(1), "a": c, "b": b, "c": null}));
    }
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 12, "no prompt twice");

    // Four images a prompt: both relations, the first, the second, none.
    let mut found = Map::new();
    for prompt in suite {
        for (k, (first, second)) in [(true, true), (true, false), (false, true), (false, false)].into_iter().enumerate()
        {
            found.insert(format!("{}_{k}", prompt["id"].as_str().unwrap()), boxes(prompt, first, second));
        }
    }
    std::fs::write(dir.join("boxes.json"), Value::Object(found).to_string()).unwrap();
    let score = ["spatial", "score", "--prompts", "suite.json", "--detections", "boxes.json"];
    let report: Value = serde_json::from_str(&run(dir, &[&score[..], &["--json"]].concat())).unwrap();
    let row = |name: &str, key: &str| report[name][key].as_f64().unwrap();
    // 24 statements in 48 images each hold in half of them, both together in a quarter.
    assert_eq!((row("all", "prompts"), row("all", "pictures"), row("all", "uncond")), (24.0, 96.0, 50.0));
    assert_eq!((row("both_relations", "prompts"), row("both_relations", "uncond")), (12.0, 25.0));
    assert_eq!((row("both_relations", "VISOR_1"), row("both_relations", "VISOR_2")), (100.0, 0.0));
    assert_eq!(report["prompts_without_pictures"], 0);
    assert!(run(dir, &score).contains("both of two"));

    // The same by questions: of every prompt all objects are there, and the second relation alone holds.
    run(dir, &["generate", "--model", "shapes", "--prompts", "suite.json", "--steps", "1", "--out", "images"]);
    let mut answers = String::new();
    for (number, prompt) in suite.iter().enumerate() {
        for question in 1..=5 {
            let answer = if question == 4 { "no" } else { "yes" };
            let row = json!({"item_id": prompt["id"], "question_id": question, "file_name": format!("{number:05}.png"),
                             "answer": answer});
            answers += &format!("{row}\n");
        }
    }
    std::fs::write(dir.join("answers.jsonl"), answers).unwrap();
    let eval =
        ["eval", "--benchmark", "dsg", "--questions", "q.csv", "--answers", "answers.jsonl", "--images", "images"];
    run(dir, &[&eval[..], &["--out", "scores.json"]].concat());
    let asked = ["spatial", "score", "--prompts", "suite.json", "--scores", "scores.json", "--json"];
    let report: Value = serde_json::from_str(&run(dir, &asked)).unwrap();
    assert_eq!((&report["all"]["OA"], &report["all"]["uncond"]), (&json!(100.0), &json!(50.0)));
    assert_eq!((&report["both_relations"]["OA"], &report["both_relations"]["uncond"]), (&json!(100.0), &json!(0.0)));

    let many = [&make[..], &["--two-relations", "49", "--out", "x.json"]].concat();
    says(dir, &many, 2, &["--two-relations 49", "make 48 different prompts"]);
    let none = ["spatial", "make", "--objects", "a,b,c", "--relations", "among,between", "--count", "1"];
    says(
        dir,
        &[&none[..], &["--two-relations", "1", "--out", "x.json"]].concat(),
        2,
        &["0 prepositions for two objects"],
    );
}
