//! Runs whose pictures are asked about: questions that the run writes or a file's, answered by an endpoint or a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::kills::Kills;
use crate::server::{Answer, Request, Server, chat};
use crate::{differences, json, pipeline, results, run, says};

pub const KEY: &str = "sk-do-not-show-this";

/// Says yes to about every other question, by what it is asked about which picture.
pub fn judge(_: usize, request: &Request) -> Answer {
    let content = request.body["messages"][0]["content"].to_string();
    let sum: usize = content.bytes().map(usize::from).sum();
    chat(if sum.is_multiple_of(3) { "No." } else { "Yes" }, "stop")
}

/// The pipeline of two skills, with replies for captions and for DSG's questions, and `evaluate` on top of `[evaluate]`.
fn asked(dir: &Path, evaluate: &str, more: &str) -> PathBuf {
    let file = pipeline(dir, more);
    for (skill, things) in [
        ("counting", ["fox", "hen", "jar", "bus", "cat", "owl"]),
        ("spatial", ["oak", "elm", "fir", "yew", "ash", "box"]),
    ] {
        let list: Vec<String> = things
            .iter()
            .map(|thing| format!("- {thing} {thing}s by the {thing} of a {thing}"))
            .collect();
        let record = json!({ "reply": list.join("\n") });
        std::fs::write(
            dir.join(format!("replies/{skill}.replies.jsonl")),
            format!("{record}\n"),
        )
        .unwrap();
        let replies = [
            "1 | entity - whole (thing)\n2 | attribute - color (thing, red)",
            "1 | 0\n2 | 1",
            "1 | Is it there?\n2 | Is it <b>red</b>?",
        ];
        let lines: String = (0..9)
            .map(|i| format!("{}\n", json!({"reply": replies[i % 3]})))
            .collect();
        for kind in ["questions", "learnt.questions"] {
            std::fs::write(dir.join(format!("replies/{skill}.{kind}.replies.jsonl")), &lines).unwrap();
        }
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("prompts = 2\nseeds = 2\n", evaluate);
    std::fs::write(&file, text).unwrap();
    file
}

fn by_endpoint(server: &Server, more: &str) -> String {
    format!(
        "\n[judge]\nurl = \"{}\"\nmodel = \"seer\"\nretries = 0\n{more}",
        server.url
    )
}

/// But for the recordings of answers and replies, whose lines come in the order in which they arrive.
pub fn bytes(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = results(out);
    all.retain(|path, _| !path.starts_with("judge") && !path.to_string_lossy().ends_with(".replies.jsonl"));
    all
}

#[test]
fn a_skill_without_a_benchmark_is_scored_and_its_checkpoints_are_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(judge);
    let file = asked(
        dir.path(),
        "benchmark = \"dsg\"\nprompts = 2\n",
        &by_endpoint(&server, "\n[choose]\nevery = 1\nprompts = 1\n"),
    );
    let whole = dir.path().join("whole");
    let command = || {
        let mut command = run(&file, &whole);
        command.env("OPENAI_API_KEY", KEY);
        command
    };
    let begin = Instant::now();
    let outcome = json(command());
    let took = begin.elapsed();
    // Two more pieces than without questions.
    assert_eq!(outcome["done"].as_array().unwrap().len(), 12, "{outcome}");
    let arms = outcome["summary"]["arms"].as_array().unwrap();
    assert_eq!(outcome["summary"]["judge"], "seer");
    let values: Vec<&Value> = arms.iter().map(|arm| &arm["overall"]["values"]).collect();
    assert_eq!(values, [4, 4, 4, 2, 2]);
    assert!(arms[2]["skills"]["spatial"]["mean"].is_number());
    // Three learn, one chooses, two are evaluated; no prompt serves twice.
    let items = |name: &str| selma::evaluate::questions::dsg::read(&whole.join("questions").join(name)).unwrap();
    let texts = |name: &str| items(name).into_iter().map(|item| item.prompt).collect::<Vec<_>>();
    assert_eq!(texts("counting.choice.csv"), ["bus buss by the bus of a bus"]);
    assert_eq!(
        texts("counting.csv"),
        ["cat cats by the cat of a cat", "owl owls by the owl of a owl"]
    );
    assert_eq!(items("counting.csv")[0].questions[1].parents, [1]);
    let mut chosen = Vec::new();
    for (part, last) in [("counting", 3), ("spatial", 3), ("all-in-one", 6)] {
        let folder = whole.join("experts").join(part);
        let choice: Value = serde_json::from_slice(&std::fs::read(folder.join("choice.json")).unwrap()).unwrap();
        let candidates = choice["candidates"].as_array().unwrap();
        let means: Vec<f64> = candidates
            .iter()
            .map(|c| c["score"]["mean"].as_f64().unwrap())
            .collect();
        assert_eq!(means.len(), last);
        let best = means.iter().copied().fold(0.0, f64::max);
        let first = means.iter().position(|&mean| mean == best).unwrap() as u64 + 1;
        assert_eq!(choice["step"], first, "{choice}");
        let lora = selma::formats::safetensors::Safetensors::open(&folder.join("lora.safetensors")).unwrap();
        assert_eq!(lora.metadata()["selma.step"], first.to_string());
        // What a run needs no more is gone.
        assert!(!folder.join("candidates").exists());
        assert_eq!(selma::train::checkpoint::list(&folder.join("state")).unwrap().len(), 1);
        chosen.push(first);
    }
    let page = std::fs::read_to_string(whole.join("report.html")).unwrap();
    for text in [
        "Chosen checkpoints",
        "Benchmark dsg",
        "judge seer",
        "Dependencies of questions: direct",
        "95 % interval",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("<b>red"));
    for (part, step) in ["counting", "spatial", "all-in-one"].iter().zip(&chosen) {
        assert!(
            page.contains(&format!("<td>{part}</td><td><strong>{step}</strong></td>")),
            "{part}"
        );
    }

    // Nothing is asked twice, and what is finished is left alone.
    let asked = server.seen().len();
    assert_eq!(json(command())["done"], json!([]));
    assert_eq!(server.seen().len(), asked);
    // Killed again and again, the run ends in the same bytes.
    let broken = dir.path().join("broken");
    let mut command_there = run(&file, &broken);
    command_there.env("OPENAI_API_KEY", KEY);
    let mut kills = Kills::new(6, took / 4, 2023);
    kills.through(&command_there, &broken);
    assert!(kills.landed > 1);
    assert_eq!(differences(&bytes(&whole), &bytes(&broken)), Vec::<PathBuf>::new());
    // Other numbers of evaluated prompts do not train anew.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"dsg\"\nprompts = 2", "\"dsg\"\nprompts = 1")).unwrap();
    assert_eq!(
        json(command())["done"],
        json!(["questions of counting", "questions of spatial", "evaluate", "report"])
    );
    keyless(dir.path());
}

/// No file holds the key.
pub fn keyless(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => keyless(&path),
            false => {
                let bytes = std::fs::read(&path).unwrap();
                assert!(
                    !bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes()),
                    "{}",
                    path.display()
                );
            }
        }
    }
}

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
    says(
        run(&file, &out),
        1,
        &["answers.jsonl", "no answer to 6 questions", "evaluate.unanswered.jsonl"],
    );
    // Two questions about the pictures of base, all-in-one and merged; an answer in each row is all that it takes.
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
    let drawn = std::fs::metadata(out.join("evaluate/base/tifa/seed-42/00000.png"))
        .unwrap()
        .modified()
        .unwrap();
    let outcome = json(run(&file, &out));
    assert_eq!(outcome["done"], json!(["evaluate", "report"]));
    assert_eq!(
        std::fs::metadata(out.join("evaluate/base/tifa/seed-42/00000.png"))
            .unwrap()
            .modified()
            .unwrap(),
        drawn
    );
    let arms = outcome["summary"]["arms"].as_array().unwrap();
    let names: Vec<(&str, f64)> = arms
        .iter()
        .map(|arm| (arm["name"].as_str().unwrap(), arm["overall"]["mean"].as_f64().unwrap()))
        .collect();
    // "2" is a choice of the last question, and the first choice of the second where nothing fits.
    assert_eq!(names, [("base", 2.0 / 3.0), ("all-in-one", 2.0 / 3.0), ("merged", 1.0)]);
    assert_eq!(outcome["summary"]["judge"], "answers of blip");
    assert!(!list.exists());
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    for text in ["drawbench", "coco", "answers rightly", "3 prompts, 1 pictures"] {
        assert!(page.contains(text), "{text}");
    }
    // Another answer scores anew, and draws nothing.
    let other = std::fs::read_to_string(dir.path().join("answers.jsonl"))
        .unwrap()
        .replacen("\"a cat\"", "\"a dog\"", 1);
    std::fs::write(dir.path().join("answers.jsonl"), other).unwrap();
    assert_eq!(
        json(run(&file, &out))["summary"]["arms"][2]["overall"]["mean"],
        2.0 / 3.0
    );
    assert_eq!(
        std::fs::metadata(out.join("evaluate/base/tifa/seed-42/00000.png"))
            .unwrap()
            .modified()
            .unwrap(),
        drawn
    );
}

/// Fills in what a run could not know: an answer that follows from the picture's name.
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
fn pictures_are_selected_by_a_file_of_answers() {
    let dir = tempfile::tempdir().unwrap();
    let file = asked(
        dir.path(),
        "benchmark = \"dsg\"\nprompts = 1\n",
        "\n[judge]\nanswers = \"answers.jsonl\"\n[select]\nrule = \"best-of:2\"\n",
    );
    let (out, answers) = (dir.path().join("out"), dir.path().join("answers.jsonl"));
    // Two pictures of each of three prompts, two questions about each; both skills wait at once.
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
