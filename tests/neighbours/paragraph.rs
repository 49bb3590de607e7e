//! `selma paragraph`: ParaDiffusion's files, and the late-token score.

use serde_json::{Value, json};

use crate::{run, says};

#[test]
fn what_stands_late_is_scored_apart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let prompt = format!("a large red circle{} and a small blue star", " very".repeat(75));
    std::fs::write(dir.join("prompts.txt"), format!("{prompt}\n")).unwrap();
    let draw = [
        "generate",
        "--model",
        "shapes",
        "--prompts",
        "prompts.txt",
        "--steps",
        "2",
        "--images-per-prompt",
        "2",
        "--out",
    ];
    run(dir, &[&draw[..], &["cut"]].concat());
    run(dir, &[&draw[..], &["whole", "--long-prompts"]].concat());
    assert_ne!(crate::pixels(&dir.join("cut")), crate::pixels(&dir.join("whole")));
    for images in ["cut", "whole"] {
        let out = format!("{images}.json");
        run(dir, &["eval", "--benchmark", "shapes", "--judge", "builtin", "--images", images, "--out", &out]);
    }
    run(dir, &["questions", "--prompts", "prompts.txt", "--writer", "builtin", "--out", "questions.csv"]);
    let score = ["paragraph", "score", "--cut", "cut.json", "--whole", "whole.json", "--questions", "questions.csv"];
    let report: Value =
        serde_json::from_str(&run(dir, &[&score[..], &["--model", "shapes", "--json"]].concat())).unwrap();
    // A circle, red, large; a star, blue, small; of two images.
    for set in ["cut", "whole"] {
        let n: Vec<&Value> = ["early", "late", "absent"].iter().map(|place| &report[set][place]["n"]).collect();
        assert_eq!(n, [&json!(6), &json!(6), &json!(0)], "{report}");
        assert_eq!(report[set]["absent"]["mean"], Value::Null);
        // The mean of all questions is that of `selma eval`.
        let scores: Value = serde_json::from_slice(&crate::bytes(&dir.join(format!("{set}.json")))).unwrap();
        let mean = |place: &str| report[set][place]["mean"].as_f64().unwrap();
        let all = scores["questions"]["mean"].as_f64().unwrap();
        assert!(((mean("early") + mean("late")) / 2.0 - all).abs() < 1e-9, "{report} {all}");
    }
    let shown = run(dir, &[&score[..], &["--model", "shapes", "--out", "late.json"]].concat());
    assert!(shown.contains("late") && shown.contains("of 6"), "{shown}");
    says(dir, &[&score[..], &["--out", "late.json"]].concat(), 1, &["late.json", "--overwrite"]);
    std::fs::write(dir.join("prompts.txt"), "a red circle\n").unwrap();
    run(dir, &["questions", "--prompts", "prompts.txt", "--writer", "builtin", "--out", "other.csv"]);
    let other = ["paragraph", "score", "--cut", "cut.json", "--whole", "whole.json", "--questions", "other.csv"];
    says(dir, &other, 1, &["cut.json", "00000.png", "no questions in the file"]);
}

#[test]
fn test_files_become_prompts_and_questions() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let table = "Image,Prompt,Category,Prompt_Chinese\n\
                 1.png,\"A street, with a grey house.\",City,\n2.jpg,A lake.,Nature,\n";
    std::fs::write(dir.join("para.csv"), table).unwrap();
    std::fs::create_dir(dir.join("parts")).unwrap();
    std::fs::write(dir.join("parts/1.json"), r#"{"House 1": {"Attributes": "grey", "Locations": "left"}}"#).unwrap();
    run(dir, &["paragraph", "make", "--table", "para.csv", "--out", "all.jsonl"]);
    assert_eq!(std::fs::read_to_string(dir.join("all.jsonl")).unwrap().lines().count(), 2);
    let make =
        ["paragraph", "make", "--table", "para.csv", "--parts", "parts", "--questions", "q.csv", "--out", "some.jsonl"];
    assert!(run(dir, &make).contains("1 of 2 paragraphs, 2 questions"));
    let record: Value = serde_json::from_slice(&crate::bytes(&dir.join("some.jsonl"))).unwrap();
    assert_eq!(record, json!({"text": "A street, with a grey house.", "item_id": "1", "category": "City"}));
    let items = selma::evaluate::questions::dsg::read(&dir.join("q.csv")).unwrap();
    assert_eq!((items[0].id.as_str(), items[0].questions[1].parents.as_slice()), ("1", &[1][..]));
    says(dir, &make, 1, &["some.jsonl", "--overwrite"]);
    std::fs::write(dir.join("para.csv"), "Image,Text\n").unwrap();
    let again = ["paragraph", "make", "--table", "para.csv", "--out", "x.jsonl"];
    says(dir, &again, 1, &["para.csv", "no column Prompt"]);
}
