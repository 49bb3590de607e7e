//! DSG and TIFA in one run, and BLIP-VQA that answers both.

use std::path::{Path, PathBuf};
use std::time::Instant;

use assert_cmd::Command;
use selma::evaluate::questions::dsg;
use selma::run::RunConfig;
use serde_json::{Value, json};

use crate::asked::{asked, by_endpoint, judge};
use crate::kills::Kills;
use crate::models::root;
use crate::server::Server;
use crate::{differences, json, results, run, says};

/// Two prompts for each benchmark, one of which they share: whose images it is about must not be mixed up.
fn questions(dir: &Path) {
    let proposition = |id, parents: &[usize], question: &str| dsg::Proposition {
        id,
        parents: parents.to_vec(),
        tuple: "entity - whole (thing)".into(),
        question: question.into(),
    };
    let items = ["a cat", "a red cow"].map(|prompt| dsg::Annotated {
        id: format!("whoops_{}", prompt.len()),
        prompt: prompt.into(),
        propositions: vec![
            proposition(1, &[], &format!("Is there {prompt}?")),
            proposition(2, &[1], "Is it in the middle?"),
        ],
    });
    dsg::write(&dir.join("dsg.csv"), &items).unwrap();
    let tifa = json!([
        {"id": "coco_1", "caption": "a cat", "question": "what animal is this?", "choices": ["cat", "dog"], "answer": "cat",
         "element_type": "animal"},
        {"id": "coco_1", "caption": "a cat", "question": "is this a cat?", "choices": ["yes", "no"], "answer": "yes",
         "element_type": "animal"},
        {"id": "drawbench_2", "caption": "three hens", "question": "how many?", "choices": ["1", "3"], "answer": "3",
         "element_type": "counting"},
    ]);
    std::fs::write(dir.join("tifa.json"), tifa.to_string()).unwrap();
}

const BOTH: &str = "benchmark = [\"dsg\", \"tifa\"]\nquestions = { dsg = \"dsg.csv\", tifa = \"tifa.json\" }\n";

/// The run file with other words in place of its benchmarks.
fn only(file: &Path, benchmark: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, text.replace(BOTH, benchmark)).unwrap();
}

fn image(out: &Path, arm: &str, set: &str) -> PathBuf {
    out.join(format!("evaluate/{arm}/{set}/seed-42/00000.png"))
}

#[test]
fn dsg_and_tifa_are_columns_of_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(judge);
    questions(dir.path());
    let file = asked(dir.path(), BOTH, &by_endpoint(&server, ""));
    let out = dir.path().join("out");
    let both = json(run(&file, &out))["summary"].clone();
    assert_eq!((&both["benchmark"], &both["further"][0]["benchmark"]), (&json!("dsg"), &json!("tifa")));
    let names = |summary: &Value| -> Vec<String> {
        let arms = summary["arms"].as_array().unwrap().iter();
        arms.map(|arm| format!("{} {}", arm["name"].as_str().unwrap(), arm["overall"]["values"])).collect()
    };
    let arms = ["base 2", "all-in-one 2", "merged 2"];
    assert_eq!(
        (names(&both), names(&both["further"][0])),
        (arms.map(String::from).to_vec(), arms.map(String::from).to_vec())
    );
    assert!(both["further"][0]["arms"][0]["families"]["drawbench"]["mean"].is_number(), "{both}");
    for arm in ["base", "all-in-one", "merged"] {
        assert!(image(&out, arm, "dsg").is_file() && image(&out, arm, "tifa").is_file());
        assert!(out.join(format!("evaluate/{arm}/scores.tifa.json")).is_file());
    }
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    let texts = [
        "<h3>DSG</h3>",
        "<h3>TIFA</h3>",
        "Beside the paper",
        "Differences, TIFA",
        "By TIFA, on prompts of its own: difference",
        "with yes (DSG) or rightly (TIFA)",
        "Not measured: CLIPScore, PickScore",
    ];
    for text in texts {
        assert!(page.contains(text), "no {text:?}");
    }
    assert!(!page.contains("Not measured: DSG") && !page.contains("Not measured: TIFA"), "both were");
    // The same numbers as in runs of one benchmark.
    let mut first = both.clone();
    let tifa = first.as_object_mut().unwrap().remove("further").unwrap()[0].clone();
    only(&file, "benchmark = \"tifa\"\nquestions = \"tifa.json\"\n");
    let outcome = json(run(&file, &out));
    assert_eq!((&outcome["done"], &outcome["summary"]), (&json!(["evaluate", "report"]), &tifa));
    assert!(!out.join("evaluate/base/scores.tifa.json").exists());
    let text = std::fs::read_to_string(&file).unwrap();
    let single = "benchmark = \"dsg\"\nquestions = \"dsg.csv\"\n";
    std::fs::write(&file, text.replace("benchmark = \"tifa\"\nquestions = \"tifa.json\"\n", single)).unwrap();
    assert_eq!(json(run(&file, &out))["summary"], first);
}

/// Without a file of DSG's, its questions are about prompts of the skills.
#[test]
fn questions_of_the_run_and_those_of_a_file_go_together() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(judge);
    questions(dir.path());
    let settings = "benchmark = [\"dsg\", \"tifa\"]\nquestions = { tifa = \"tifa.json\" }\nprompts = 2\n";
    let file = asked(dir.path(), settings, &by_endpoint(&server, ""));
    let out = dir.path().join("out");
    let summary = json(run(&file, &out))["summary"].clone();
    let arm = |summary: &Value, place: usize| summary["arms"][place].clone();
    assert_eq!(arm(&summary, 0)["skills"]["spatial"]["values"], 2);
    let expert = arm(&summary, 3);
    assert_eq!((&expert["name"], &expert["overall"]["values"]), (&json!("expert-counting"), &json!(2)));
    assert_eq!(arm(&summary["further"][0], 0)["overall"]["values"], 2);
    assert_eq!(
        summary["further"][0]["arms"].as_array().unwrap().len(),
        3,
        "experts draw TIFA's prompts only if asked to"
    );
    assert!(image(&out, "expert-counting", "counting").is_file() && !image(&out, "expert-counting", "tifa").exists());
}

fn eval(out: &Path, benchmark: &str, questions: &Path, scores: &Path) -> Value {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.args(["eval", "--benchmark", benchmark, "--judge", "blip-vqa", "--quiet", "--questions"]).arg(questions);
    command.arg("--images").arg(image(out, "merged", benchmark).parent().unwrap()).arg("--out").arg(scores);
    command.arg("--weights").arg(format!("blip-vqa={}", root().join("models/judge-blip-vqa").display()));
    command.assert().success();
    serde_json::from_slice(&std::fs::read(scores).unwrap()).unwrap()
}

#[test]
fn blip_vqa_answers_in_a_run_that_is_killed_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    questions(dir.path());
    let judge = format!("\n[judge]\nblip-vqa = {:?}\n", root().join("models/judge-blip-vqa"));
    let file = asked(dir.path(), BOTH, &judge);
    let whole = dir.path().join("whole");
    let begin = Instant::now();
    let summary = json(run(&file, &whole))["summary"].clone();
    let took = begin.elapsed();
    assert!(summary["judge"].as_str().unwrap().starts_with("blip-vqa"), "{summary}");
    assert!(summary["judge"].as_str().unwrap().contains("greedy"), "{summary}");
    // Seven questions about the images of three models, each asked once.
    let record = std::fs::read_to_string(whole.join("judge/evaluate.answers.jsonl")).unwrap();
    assert_eq!(record.lines().count(), 3 * 7);
    // As the command that scores a folder.
    for (benchmark, questions, inner) in [("dsg", "dsg.csv", &summary), ("tifa", "tifa.json", &summary["further"][0])] {
        let scores = dir.path().join(format!("{benchmark}.scores.json"));
        let alone = eval(&whole, benchmark, &dir.path().join(questions), &scores);
        assert_eq!(alone["overall"]["mean"], inner["arms"][2]["overall"]["mean"], "{benchmark}");
    }
    let broken = dir.path().join("broken");
    let mut kills = Kills::new(6, took / 3, 17);
    kills.through(&run(&file, &broken), &broken);
    assert!(kills.landed > 1);
    assert_eq!(differences(&results(&whole), &results(&broken)), Vec::<PathBuf>::new());
    // Another form asks anew, of the same images; what was answered before stays in the record.
    let drawn = || std::fs::metadata(image(&whole, "base", "dsg")).unwrap().modified().unwrap();
    let before = drawn();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&judge, &format!("{judge}answer-form = \"yes-no\"\n"))).unwrap();
    let outcome = json(run(&file, &whole));
    assert_eq!((&outcome["done"], drawn()), (&json!(["evaluate", "report"]), before));
    assert!(outcome["summary"]["judge"].as_str().unwrap().contains("yes-no"), "{outcome}");
}

fn refusal(evaluate: &str, judge: &str) -> String {
    let text = format!(
        "skills = [\"counting\"]\n[prompts]\nwriter = \"builtin\"\n[experts]\nmodel = \"shapes\"\n[evaluate]\n{evaluate}\n{judge}\n"
    );
    RunConfig::parse(&text, Path::new("")).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn benchmarks_that_do_not_go_together_are_refused_by_name() {
    for (evaluate, words) in [
        ("benchmark = []", "a list has"),
        ("benchmark = [\"dsg\", \"shapes\"]", "stand alone"),
        ("benchmark = [\"dsg\", \"dsg\"]", "twice"),
        ("benchmark = [\"dsg\", \"hps\"]", "expected \"dsg\", \"tifa\""),
        ("benchmark = 3", "expected a name such as"),
        ("benchmark = [\"dsg\", \"tifa\"]", "expected questions = { tifa = \"FILE\" }"),
        ("benchmark = [\"dsg\", \"tifa\"]\nquestions = \"q.csv\"", "files of their own"),
        ("benchmark = \"dsg\"\nquestions = { tifa = \"q.json\" }", "not a benchmark of this run"),
        ("benchmark = \"dsg\"\nquestions = 3", "one for each benchmark"),
    ] {
        let message = refusal(evaluate, "[judge]\nurl = \"http://localhost:1\"\nmodel = \"m\"");
        assert!(message.contains(words), "{evaluate}: {message}");
    }
    let both = "benchmark = [\"dsg\", \"tifa\"]\nquestions = { tifa = \"q.json\" }";
    let message = refusal(both, "");
    assert!(message.contains("benchmark = \"dsg, tifa\" expects one of url"), "{message}");
}

/// A file of answers that cannot tell two items of one id apart is refused before anything is drawn anew.
#[test]
fn an_id_in_both_benchmarks_and_a_file_of_answers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    questions(dir.path());
    let text = std::fs::read_to_string(dir.path().join("tifa.json")).unwrap();
    std::fs::write(dir.path().join("tifa.json"), text.replace("coco_1", "whoops_5")).unwrap();
    std::fs::write(dir.path().join("answers.jsonl"), "").unwrap();
    let file = asked(dir.path(), BOTH, "\n[judge]\nanswers = \"answers.jsonl\"\n");
    says(run(&file, &dir.path().join("out")), 2, &["whoops_5", "questions of two benchmarks"]);
}
