//! Runs whose writer and judge are endpoints, which fail now and then, and whose writer means no good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use selma::evaluate::questions::dsg;
use selma::formats::jsonl;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::asked::{KEY, bytes, judge, keyless};
use crate::kills::Kills;
use crate::server::{Answer, Request, Server, chat, failure};
use crate::{differences, json, pipeline, run, says};

/// What no reader of a page, a file or a terminal may be led by.
const HOSTILE: &str =
    "\u{1b}[2J\u{1b}]0;owned\u{7} </script><script>alert(1)</script> ../../etc/passwd \0 \u{202e}gnp.x\u{9b}1m";

/// Captions and questions that follow from the request.
fn written(request: &Request) -> Answer {
    let text = request.prompt();
    let reply = if text.contains("| question\n") {
        format!("1 | Is it there? {HOSTILE}\n2 | Is it <b>red</b>?")
    } else if text.contains("ids of its parents\n") {
        "1 | 0\n2 | 1".into()
    } else if text.ends_with("\noutput:") {
        "1 | entity - whole (thing)\n2 | attribute - color (thing, red)".into()
    } else {
        let digest = Sha256::digest(text);
        let captions = digest.chunks(4).enumerate().map(|(i, words)| {
            let words: Vec<String> = words.iter().map(|byte| format!("thing{byte}")).collect();
            format!("{}. Two {} {}\n", i + 4, words.join(" "), if i == 1 { HOSTILE } else { "" })
        });
        captions.collect()
    };
    chat(&reply, "stop")
}

/// The first requests of all meet every failure that may pass.
fn endpoint(number: usize, request: &Request) -> Answer {
    let sees = request.body["messages"][0]["content"].is_array();
    match (number, sees) {
        (0, _) => Answer::With(429, "Retry-After: 0".into(), json!({"error": "slow down"})),
        (4, _) => Answer::With(503, "Retry-After: 0".into(), json!({})),
        (9, _) => Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{\"choices\": [{\"mess".to_vec()),
        (15, _) => Answer::Raw(b"HTTP/1.1 200 OK\r\n\r\n{\"choices\": [".to_vec()),
        (22, _) => Answer::Stall,
        (_, true) => judge(number, request),
        (_, false) => written(request),
    }
}

/// The pipeline of two skills with an endpoint for all replies, and a benchmark of three prompts.
fn on_endpoints(dir: &Path, url: &str, more: &str) -> PathBuf {
    let table = format!("[judge]\nurl = \"{url}\"\nmodel = \"seer\"\nretries = 2\ntimeout = 4.0\n{more}");
    let file = pipeline(dir, &table);
    std::fs::remove_dir_all(dir.join("replies")).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let writer = format!("llm = \"{url}\"\nllm-model = \"writer\"\nparallel = 2\nretries = 2\ntimeout = 4.0");
    let text = text.replace("replay = \"replies\"", &writer);
    let text = text.replace("prompts = 2\nseeds = 2", "benchmark = \"dsg\"\nquestions = \"benchmark.csv\"");
    std::fs::write(&file, text).unwrap();
    let items: Vec<dsg::Annotated> = ["a cat", "a dog", "a tree"]
        .iter()
        .enumerate()
        .map(|(i, prompt)| dsg::Annotated {
            id: format!("whoops_{i}"),
            prompt: (*prompt).into(),
            propositions: vec![dsg::Proposition {
                id: 1,
                parents: Vec::new(),
                tuple: "entity - whole (thing)".into(),
                question: format!("Is there {prompt}?"),
            }],
        })
        .collect();
    dsg::write(&dir.join("benchmark.csv"), &items).unwrap();
    file
}

/// Every file under `dir`.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// An image's share of questions answered with yes, by its name: DSG's, where the second depends on the first.
fn judged(record: &Path) -> BTreeMap<String, f64> {
    let mut answers: BTreeMap<String, [bool; 2]> = BTreeMap::new();
    for (_, row) in jsonl::read::<Value>(record).unwrap() {
        let question = row["question_id"].as_u64().unwrap() as usize - 1;
        let name = row["file_name"].as_str().unwrap().to_owned();
        answers.entry(name).or_default()[question] = row["answer"] == "yes";
    }
    let score = |[first, second]: [bool; 2]| (f64::from(first) + f64::from(first && second)) / 2.0;
    answers.into_iter().map(|(name, given)| (name, score(given))).collect()
}

#[test]
fn endpoints_write_select_choose_and_judge() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(endpoint);
    let tables = "[select]\nrule = \"best-of:2\"\n[choose]\nevery = 2\nprompts = 1\n";
    let file = on_endpoints(dir.path(), &server.url, tables);
    let out = dir.path().join("out");
    let command = |out: &Path| {
        let mut command = run(&file, out);
        command.env("OPENAI_API_KEY", KEY);
        command
    };
    let begin = Instant::now();
    // With all that it has to say.
    let mut loud = assert_cmd::Command::cargo_bin("selma").unwrap();
    loud.arg("run").arg(&file).arg("--out").arg(&out).env("OPENAI_API_KEY", KEY);
    let output = loud.assert().success();
    let took = begin.elapsed();
    let said = [&output.get_output().stdout[..], &output.get_output().stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(!said.contains(KEY) && said.contains("are learnt from"), "{said}");
    plain(&said);

    // The whole benchmark is scored; checkpoints are chosen by prompts that are neither learnt from nor evaluated.
    let summary: Value = serde_json::from_slice(&std::fs::read(out.join("evaluate/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["arms"][0]["overall"]["values"], 3);
    let texts = |name: &str| -> BTreeSet<String> {
        let items = dsg::read(&out.join("questions").join(name)).unwrap();
        items.into_iter().map(|item| item.prompt).collect()
    };
    for skill in ["counting", "spatial"] {
        let learnt = texts(&format!("{skill}.learnt.csv"));
        let choice = texts(&format!("{skill}.choice.csv"));
        assert_eq!((learnt.len(), choice.len()), (3, 1));
        assert!(choice.is_disjoint(&learnt) && !out.join(format!("questions/{skill}.csv")).exists());
        // The better of two images, by the answers that are recorded.
        let scores = judged(&out.join(format!("judge/select/{skill}.answers.jsonl")));
        assert_eq!(scores.len(), 6);
        let rows = jsonl::read::<Value>(&out.join(format!("select/{skill}/chosen/metadata.jsonl"))).unwrap();
        assert_eq!(rows.len(), 3);
        for (_, row) in rows {
            let source = Path::new(row["source"].as_str().unwrap());
            let name = source.file_name().unwrap().to_str().unwrap();
            let of = |place: String| scores[&format!("{place}/{name}")];
            let [first, second] = [of(format!("images/{skill}")), of(format!("select/{skill}/draw-1"))];
            assert_eq!(row["score"], first.max(second));
            assert_eq!(source.parent().unwrap().ends_with("draw-1"), second > first, "{row}");
        }
        let choice: Value =
            serde_json::from_slice(&std::fs::read(out.join(format!("experts/{skill}/choice.json"))).unwrap()).unwrap();
        assert_eq!((&choice["benchmark"], &choice["judge"]), (&json!("dsg"), &json!("seer")));
        assert_eq!(choice["candidates"].as_array().unwrap().len(), 2);
    }

    // The key is in no file; what the writer wrote leads nobody astray.
    keyless(&out);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    plain(&page);
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script") && !page.contains("<b>red"));
    let mut all = Vec::new();
    files(&out, &mut all);
    for path in &all {
        let name = path.strip_prefix(&out).unwrap().to_str().unwrap();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        assert!(name.chars().all(is_plain) && !name.contains(".."), "{name}");
    }
    let prompts = std::fs::read_to_string(out.join("prompts/counting.json")).unwrap();
    assert!(prompts.contains("../../etc/passwd"), "the hostile caption is none of the prompts");
    plain(&prompts);

    // Nothing is asked twice. Fewer prompts of the benchmark are counted as such, and train nothing anew.
    let asked = server.seen().len();
    assert_eq!(json(command(&out))["done"], json!([]));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"benchmark.csv\"", "\"benchmark.csv\"\nprompts = 2")).unwrap();
    assert_eq!(json(command(&out))["done"], json!(["evaluate", "report"]));
    assert_eq!(server.seen().len(), asked);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("1 of its prompts were left out"));
    // Killed at random moments, the run ends in the same bytes.
    let broken = dir.path().join("broken");
    let mut kills = Kills::new(6, took / 4, 1701);
    kills.through(&command(&broken), &broken);
    assert!(kills.landed > 1);
    assert_eq!(differences(&bytes(&out), &bytes(&broken)), Vec::<PathBuf>::new());
    keyless(&broken);
}

/// Nothing that a terminal obeys, and nothing that turns the direction of writing.
fn plain(text: &str) {
    let odd = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(odd), "{text:?}");
}

/// What cannot pass ends the run before anything is drawn, says where, and loses nothing.
#[test]
fn a_writer_that_fails_ends_the_run_before_anything_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let answers = |number: usize, request: &Request| match (number, request.prompt().ends_with("\noutput:")) {
        (_, false) => written(request),
        _ => failure(401, &format!("wrong key {KEY}"), ""),
    };
    let server = Server::start(answers);
    let file = on_endpoints(dir.path(), &server.url, "[choose]\nevery = 2\nprompts = 1\n");
    let out = dir.path().join("out");
    let mut command = run(&file, &out);
    command.env("OPENAI_API_KEY", KEY);
    says(command, 1, &["does not accept the key in OPENAI_API_KEY", "[key]"]);
    assert!(out.join("prompts/spatial.json").exists() && !out.join("images").exists());
    keyless(&out);
    let (recorded, sound) = (
        server.seen().len(),
        Server::start(|_, request| match request.body["messages"][0]["content"].is_array() {
            true => judge(0, request),
            false => written(request),
        }),
    );
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&server.url, &sound.url)).unwrap();
    let mut command = run(&file, &out);
    command.env("OPENAI_API_KEY", KEY).assert().success();
    assert_eq!(server.seen().len(), recorded);
    assert!(out.join("report.html").exists());
}

/// Both caps are those of the whole run: what another command spent counts.
#[test]
fn a_run_spends_no_more_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, request| written(request));
    let file = on_endpoints(dir.path(), &server.url, "[choose]\nevery = 2\nprompts = 1\n");
    let out = dir.path().join("out");
    let text = std::fs::read_to_string(&file).unwrap();
    let with =
        |caps: &str| std::fs::write(&file, text.replace("parallel = 2", &format!("parallel = 1\n{caps}"))).unwrap();
    // A reply takes 300 and 200 tokens and may take 100 more; three are needed for each skill's questions.
    with("max-tokens = 300\nmax-cost = 2.2\ninput-price = 1000.0\noutput-price = 1000.0");
    says(run(&file, &out), 1, &["cap on cost is reached"]);
    let asked = server.seen().len();
    assert!((2..=4).contains(&asked), "{asked}");
    says(run(&file, &out), 1, &["cap on cost is reached"]);
    assert_eq!(server.seen().len(), asked);
    with(&format!("max-requests = {}", asked + 1));
    says(run(&file, &out), 1, &[&format!("cap of {} requests", asked + 1)]);
    assert_eq!(server.seen().len(), asked + 1);
    assert!(!out.join("images").exists());
}
