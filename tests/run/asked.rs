//! Runs whose images are asked about: what they need, and questions that the run writes, answered by an endpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::kills::Kills;
use crate::server::{Answer, Request, Server, chat};
use crate::{differences, json, pipeline, results, run, says};

pub const KEY: &str = "sk-do-not-show-this";

/// Says yes to about every other question, by what it is asked about which image.
pub fn judge(_: usize, request: &Request) -> Answer {
    let content = request.body["messages"][0]["content"].to_string();
    let sum: usize = content.bytes().map(usize::from).sum();
    chat(if sum.is_multiple_of(3) { "No." } else { "Yes" }, "stop")
}

/// The pipeline of two skills, with replies for captions and for DSG's questions, and `evaluate` on top of `[evaluate]`.
pub fn asked(dir: &Path, evaluate: &str, more: &str) -> PathBuf {
    let file = pipeline(dir, more);
    for (skill, things) in [
        ("counting", ["fox", "hen", "jar", "bus", "cat", "owl"]),
        ("spatial", ["oak", "elm", "fir", "yew", "ash", "box"]),
    ] {
        let list: Vec<String> =
            things.iter().map(|thing| format!("- {thing} {thing}s by the {thing} of a {thing}")).collect();
        let record = json!({ "reply": list.join("\n") });
        std::fs::write(dir.join(format!("replies/{skill}.replies.jsonl")), format!("{record}\n")).unwrap();
        let replies = [
            "1 | entity - whole (thing)\n2 | attribute - color (thing, red)",
            "1 | 0\n2 | 1",
            "1 | Is it there?\n2 | Is it <b>red</b>?",
        ];
        let lines: String = (0..9).map(|i| format!("{}\n", json!({"reply": replies[i % 3]}))).collect();
        for kind in ["questions", "learnt.questions"] {
            std::fs::write(dir.join(format!("replies/{skill}.{kind}.replies.jsonl")), &lines).unwrap();
        }
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("prompts = 2\nseeds = 2\n", evaluate);
    std::fs::write(&file, text).unwrap();
    file
}

pub fn by_endpoint(server: &Server, more: &str) -> String {
    format!("\n[judge]\nurl = \"{}\"\nmodel = \"seer\"\nretries = 0\n{more}", server.url)
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
    assert_eq!(texts("counting.csv"), ["cat cats by the cat of a cat", "owl owls by the owl of a owl"]);
    assert_eq!(items("counting.csv")[0].questions[1].parents, [1]);
    let mut chosen = Vec::new();
    for (part, last) in [("counting", 3), ("spatial", 3), ("all-in-one", 6)] {
        let folder = whole.join("experts").join(part);
        let choice: Value = serde_json::from_slice(&std::fs::read(folder.join("choice.json")).unwrap()).unwrap();
        let candidates = choice["candidates"].as_array().unwrap();
        let means: Vec<f64> = candidates.iter().map(|c| c["score"]["mean"].as_f64().unwrap()).collect();
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
    for text in
        ["Chosen checkpoints", "Benchmark dsg", "judge seer", "Dependencies of questions: direct", "95 % interval"]
    {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("<b>red"));
    for (part, step) in ["counting", "spatial", "all-in-one"].iter().zip(&chosen) {
        assert!(page.contains(&format!("<td>{part}</td><td><strong>{step}</strong></td>")), "{part}");
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
    assert_eq!(json(command())["done"], json!(["questions of counting", "questions of spatial", "evaluate", "report"]));
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
                assert!(!bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes()), "{}", path.display());
            }
        }
    }
}

/// A skill of the user's own, which no benchmark has, is a file beside the pipeline's.
#[test]
fn a_skill_of_the_users_own_is_learnt_and_scored() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(judge);
    let file = asked(dir.path(), "benchmark = \"dsg\"\nprompts = 2\n", &by_endpoint(&server, ""));
    let skill = "id = \"boats\"\nword_limit = 30\ninstruction = \"Write {count} captions of boats, {words} words at most: \
                 {abilities}.\"\nseeds = [\"a boat\", \"a ship in a storm\", \"two canoes on a lake\"]\n";
    std::fs::write(dir.path().join("boats.toml"), skill).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"counting\", \"spatial\"", "\"boats.toml\"")).unwrap();
    let out = dir.path().join("out");
    for kind in ["", "questions."] {
        let name = |skill: &str| dir.path().join(format!("replies/{skill}.{kind}replies.jsonl"));
        if !kind.is_empty() {
            // The writer's captions are there, and its questions are not.
            let words = ["boats.questions.replies.jsonl", "no such recording", "dsg without a file"];
            says(run(&file, &out), 1, &words);
            assert!(!out.join("images").exists());
        }
        std::fs::copy(name("counting"), name("boats")).unwrap();
    }
    let outcome = json(run(&file, &out));
    let arms = outcome["summary"]["arms"].as_array().unwrap();
    let expert = arms.iter().find(|arm| arm["name"] == "expert-boats").unwrap();
    assert_eq!(expert["skills"]["boats"]["values"], 2);
}
