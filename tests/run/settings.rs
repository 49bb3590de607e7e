//! What a pipeline file may say.

use std::path::Path;

use selma::evaluate::questions::Dependencies;
use selma::prompting::llm::EndpointOptions;
use selma::run::RunConfig;
use selma::run::settings::{ChooseSettings, JudgeSettings};
use selma::train::config::TrainConfig;

use crate::{json, pipeline, run, says};

#[test]
fn the_annotated_example_is_the_papers_setting() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pipeline.toml");
    let example = RunConfig::read(&path).unwrap();
    let ids: Vec<&str> = example.skills.iter().map(|skill| skill.id.as_str()).collect();
    assert_eq!(ids, ["paragraph", "counting", "real-user", "defying", "everyday"]);
    let paper =
        TrainConfig { model: example.experts.model.clone(), keep: 1, ..TrainConfig::preset("selma-sd").unwrap() };
    assert_eq!(example.experts, paper);
    assert_eq!((example.steps("counting"), example.steps("all-in-one")), (5000, 25000));
    // Keys that are there only as comments are keys too.
    let text = std::fs::read_to_string(&path).unwrap();
    let shown = text.replace("# vae", "vae").replace("# negative", "negative").replace("# vocab", "vocab");
    let shown = shown.replace("# rank", "rank").replace("# density", "density").replace("# majority", "majority");
    let all = RunConfig::parse(&shown, Path::new("")).unwrap();
    let shown = text
        .replace("# [select]", "[select]")
        .replace("# rule", "rule")
        .replace("\n# [judge]", "\n[judge]")
        .replace("\n# [choose]", "\n[choose]");
    let shown = shown.replace("\n# every", "\nevery").replace("\n# prompts = 50", "\nprompts = 50");
    let shown = shown.replace("benchmark = \"none\"", "benchmark = \"dsg\"").replace("\n# questions", "\nquestions");
    let keys = [
        "dependencies",
        "with-experts",
        "url",
        "model = \"q",
        "parallel",
        "timeout",
        "retries",
        "max-tokens",
        "max-requests",
    ];
    let shown = keys.iter().fold(shown, |text, key| text.replace(&format!("\n# {key}"), &format!("\n{key}")));
    let asked = RunConfig::parse(&shown, Path::new("")).unwrap();
    let judge = JudgeSettings {
        url: Some("http://localhost:8001".into()),
        model: Some("qwen2.5-vl-7b-instruct".into()),
        endpoint: EndpointOptions {
            parallel: Some(4),
            timeout: Some(120.0),
            retries: Some(5),
            max_tokens: Some(20),
            max_requests: Some(100_000),
            ..EndpointOptions::default()
        },
        ..JudgeSettings::default()
    };
    assert_eq!(asked.select.unwrap().rule, "best-of:4");
    assert_eq!((asked.judge, asked.choose), (judge, Some(ChooseSettings::default())));
    assert_eq!(asked.evaluate.file("dsg"), Some(Path::new("dsg-1k-anns.csv")));
    assert_eq!((asked.evaluate.dependencies, asked.evaluate.with_experts), (Dependencies::Direct, false));
    assert_eq!(all.images.draw.negative.as_deref(), Some("blurry"));
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "");
    let sound = std::fs::read_to_string(&file).unwrap();
    let out = dir.path().join("out");
    for (from, to, words) in [
        ("count = 3", "counts = 3", &["pipeline.toml", "[prompts]: unknown key `counts`", "`count`"][..]),
        ("seeds = 2", "sedes = 2", &["[evaluate]: unknown key `sedes`", "`seeds`"]),
        ("rank = 2", "rnk = 2", &["[experts]", "unknown key `rnk`", "`rank`"]),
        ("rank = 2", "data = \"x\"", &["[experts]: `data` is decided by the run"]),
        ("skills =", "skill =", &["unknown key `skill`", "`skills`"]),
        ("[evaluate]", "[evaluation]", &["unknown key `evaluation`", "`evaluate`"]),
        ("\"counting\", ", "\"cooking\", ", &["no such skill"]),
        ("\"counting\", ", "\"spatial\", ", &["`spatial` is there twice"]),
        ("replay = \"replies\"", "", &["expected one of llm", "replay", "writer"]),
        ("replay = \"replies\"", "llm = \"http://localhost\"", &["llm-model is missing"]),
        ("count = 3", "count = \"3\"", &["prompts", "invalid type"]),
        ("seeds = 2", "seeds = 0", &["[evaluate]: seeds = 0"]),
        ("seeds = 2", "benchmark = \"dsg\"", &["[judge]", "\"dsg\"", "url", "answers"]),
        ("seeds = 2", "benchmark = \"tifa\"", &["[evaluate]", "\"tifa\"", "questions = \"FILE\""]),
        ("seeds = 2", "benchmark = \"clip\"", &["\"clip\"", "dsg"]),
        ("seeds = 2", "questions = \"q.csv\"", &["shapes", "no use for questions"]),
        ("seeds = 2", "dependencies = \"some\"", &["evaluate", "some", "direct"]),
        ("[evaluate]", "[judge]\nurl = \"x\"\n[evaluate]", &["[judge]", "shapes"]),
        ("[evaluate]", "[judge]\nurl = \"http://x\"\n[evaluate]\nbenchmark = \"dsg\"", &["[judge]: model is missing"]),
        ("[evaluate]", "[choose]\n[evaluate]\nbenchmark = \"none\"", &["[choose]", "benchmark"]),
        ("[evaluate]", "[select]\nrule = \"best-of:0\"\n[evaluate]", &["[select]: rule best-of:0", "best-of:K"]),
        ("[evaluate]", "[select]\nrule = \"best-of:2\"\n[evaluate]\nbenchmark = \"none\"", &["[select]", "benchmark"]),
        ("\"counting\", ", "\"real-user\", ", &["\"shapes\"", "real-user", "\"dsg\""]),
        ("count = 3", "count = 3\nmax-cost = 1.0", &["[prompts]: max-cost needs input-price"]),
        ("[evaluate]", "[choose]\nevery = 0\n[evaluate]", &["[choose]: every = 0"]),
        ("[evaluate]", "[merge]\nmethod = \"mean\"\n[evaluate]", &["[merge]: method = \"mean\"", "average"]),
        ("steps = 3", "preset = \"selma\"", &["[experts]: preset selma"]),
    ] {
        std::fs::write(&file, sound.replacen(from, to, 1)).unwrap();
        says(run(&file, &out), 2, words);
    }
    assert!(!out.exists(), "a run with a wrong file left something behind");
}

/// What is paid for is not lost to a slip that shows later.
#[test]
fn what_is_not_there_is_told_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "");
    let sound = std::fs::read_to_string(&file).unwrap();
    let out = dir.path().join("out");
    let asked = "benchmark = \"dsg\"\nquestions = \"none.csv\"\n[judge]\nanswers = \"answers.csv\"\n[evaluate2]";
    for (from, to, word) in [
        ("models/tiny-sd2", "models/tiny-sd9", "tiny-sd9"),
        ("models/tiny-sd1", "models/tiny-sd8", "tiny-sd8"),
        ("prompts = 2\nseeds = 2", asked, "none.csv"),
    ] {
        let text = sound.replacen(from, to, 1);
        // The rest of [evaluate] is of no use here.
        let text = match text.split_once("[evaluate2]") {
            Some((before, after)) => format!("{before}{}", &after[after.find("[experts]").unwrap()..]),
            None => text,
        };
        std::fs::write(&file, text).unwrap();
        says(run(&file, &out), 1, &[word]);
        assert!(!out.exists(), "{word}");
    }
}

#[test]
fn a_plan_says_what_is_left_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "");
    let out = dir.path().join("out");
    let planned = || {
        let mut command = run(&file, &out);
        command.arg("--dry-run");
        json(command)
    };
    let before = planned();
    assert!(!out.exists());
    let standings = |plan: &serde_json::Value| -> Vec<String> {
        let pieces = plan["pieces"].as_array().unwrap();
        pieces.iter().map(|p| p["standing"].as_str().unwrap().to_string()).collect()
    };
    assert!(standings(&before).iter().all(|s| s == "to do") && standings(&before).len() == 10);
    assert!(before["seconds"].as_f64().unwrap() > 0.0 && before["bytes"].as_u64().unwrap() > 100_000);
    let mut images = run(&file, &out);
    images.args(["--only", "prompts"]).assert().success();
    assert_eq!(standings(&planned())[..3], ["done", "done", "to do"]);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("seeds = 2", "seeds = 2\nbenchmark = \"none\"")).unwrap();
    assert_eq!(standings(&planned()).len(), 9);
}
