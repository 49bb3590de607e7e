//! The loop and the command around it, against a writer whose replies depend on the request only.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::server::{Answer, Request, Server, chat, failure};

const KEY: &str = "sk-do-not-show-this";

/// Seven new captions that follow from the request, one that is too similar to a seed, one without words, and remarks.
fn writer(request: &Request) -> Answer {
    let digest = Sha256::digest(request.prompt());
    let mut list = String::from("Here are 20 more:\n");
    for (i, pair) in digest.chunks(4).take(7).enumerate() {
        let words: Vec<String> = pair.iter().map(|byte| format!("thing{byte}")).collect();
        list.push_str(&format!("{}. Two {}\n", i + 4, words.join(" ")));
    }
    list.push_str(
        "11. Two green apples next to a single pear on a wooden board!\n12. ???\n13. Two things that were cu",
    );
    chat(&list, "length")
}

fn selma(out: &Path) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.args(["prompts", "--skill", "counting", "--quiet", "--overwrite", "--out"]).arg(out);
    command.env_remove("OPENAI_API_KEY");
    command
}

/// Sixty prompts from the model `writer`.
fn with_llm(out: &Path, server: &Server) -> Command {
    let mut command = asking(out, server, "60");
    command.args(["--llm-model", "writer"]);
    command
}

fn asking(out: &Path, server: &Server, count: &str) -> Command {
    let mut command = selma(out);
    command.args(["--llm", &server.url, "--retries", "0", "--count", count]).env("OPENAI_API_KEY", KEY);
    command
}

fn stderr(command: &mut Command, code: i32) -> String {
    let output = command.assert().code(code);
    String::from_utf8(output.get_output().stderr.clone()).unwrap()
}

fn prompts(path: &Path) -> Vec<String> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn prompts_are_kept_recorded_and_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, request| writer(request));
    let out = dir.path().join("counting.json");
    let output = with_llm(&out, &server).arg("--json").assert().success();
    let report: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();

    let kept = prompts(&out);
    assert_eq!(kept.len(), 60);
    assert!(kept.iter().all(|prompt| prompt.starts_with("Two thing")), "{kept:?}");
    let counts = &report["counts"];
    let requests = counts["requests"].as_u64().unwrap();
    let asked = server.seen().len();
    assert_eq!(report["spent"]["requests"].as_u64(), Some(asked as u64));
    assert!((9..=20).contains(&requests) && asked.is_multiple_of(5), "{report}");
    assert_eq!(counts["lines_not_understood"].as_u64(), Some(requests));
    assert_eq!(counts["cut_captions"].as_u64(), Some(requests));
    assert!(counts["too_similar"].as_u64() >= Some(8) && counts["without_words"].as_u64() >= Some(8), "{report}");

    // Examples come from what was kept, and the requests of a round differ.
    let seen = server.seen();
    assert!(seen[5..].iter().any(|request| request.prompt().contains(". Two thing")));
    assert!(seen.iter().all(|request| request.prompt().starts_with("Write 20 new image descriptions")));

    // The recording gives the same prompts without a server, and the same command asks nothing again.
    let recording = dir.path().join("counting.replies.jsonl");
    let replayed = dir.path().join("replayed.json");
    selma(&replayed).args(["--count", "60"]).arg("--replay").arg(&recording).assert().success();
    assert_eq!(std::fs::read(&replayed).unwrap(), std::fs::read(&out).unwrap());
    with_llm(&out, &server).assert().success();
    assert_eq!(server.seen().len(), asked);
    for name in ["prompts.txt", "prompts.jsonl", "prompts.json"] {
        let other = dir.path().join(name);
        selma(&other).args(["--count", "60"]).arg("--replay").arg(&recording).assert().success();
        let read = selma::data::prompts::read(&other).unwrap();
        assert_eq!(read.into_iter().map(|prompt| prompt.text).collect::<Vec<_>>(), kept, "{name}");
    }

    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        assert!(!std::fs::read_to_string(&path).unwrap().contains(KEY), "{}", path.display());
    }
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, request| writer(request));
    let whole = dir.path().join("whole.json");
    with_llm(&whole, &server).assert().success();

    let out = dir.path().join("broken.json");
    for (broken_after, killed) in [(3, false), (3, true), (4, false)] {
        let broken = Server::start(move |number, request| match number < broken_after {
            true => writer(request),
            false => failure(500, "down", ""),
        });
        let message = stderr(&mut with_llm(&out, &broken), 1);
        assert!(message.contains("status 500: down") && message.contains("the same command goes on"), "{message}");
        assert!(!out.exists());
        if killed {
            // As if the process had died while it wrote a line.
            let recording = dir.path().join("broken.replies.jsonl");
            let mut text = std::fs::read_to_string(&recording).unwrap();
            text.truncate(text.len() - 20);
            std::fs::write(&recording, text).unwrap();
        }
    }
    let asked = server.seen().len();
    with_llm(&out, &server).assert().success();
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&whole).unwrap());
    assert!(server.seen().len() < 2 * asked, "recorded requests were asked again");

    // Another seed or model would mix two runs.
    let message = stderr(with_llm(&out, &server).args(["--seed", "7"]), 2);
    assert!(message.contains("another skill, seed or similarity"), "{message}");
    let message = stderr(asking(&out, &server, "60").args(["--llm-model", "other"]), 2);
    assert!(message.contains("--llm-model writer"), "{message}");
}

#[test]
fn a_writer_without_ideas_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.json");
    let server = Server::start(|_, _| chat("4. One fox\n5. Three hens", "stop"));
    let message = stderr(with_llm(&out, &server).args(["--max-stalled", "6"]), 1);
    assert!(message.contains("6 requests in a row brought nothing new, at 2 of 60 prompts"), "{message}");
    assert!(message.contains("--count 2"), "{message}");
    assert!(!out.exists() && server.seen().len() <= 10);
    // What is there can be had.
    asking(&out, &server, "2").args(["--llm-model", "writer"]).assert().success();
    assert_eq!(prompts(&out), ["One fox", "Three hens"]);

    let capped = dir.path().join("capped.json");
    let message = stderr(with_llm(&capped, &server).args(["--max-requests", "3"]), 1);
    assert!(message.contains("the cap of 3 requests is reached"), "{message}");
}

#[test]
fn replies_from_elsewhere_are_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let (recording, out) = (dir.path().join("r.jsonl"), dir.path().join("out.json"));
    let long = "word ".repeat(30);
    let lines = ["1. One fox\\n2. Three hens", "- One fox!\\n- \\u001b[31mTwo jars", &format!("4. Many {long}")];
    let text: Vec<String> = lines.iter().map(|reply| format!("{{\"reply\": \"{reply}\"}}")).collect();
    std::fs::write(&recording, text.join("\n")).unwrap();
    let replay = |count: &str, more: &[&str]| {
        let mut command = selma(&out);
        command.args(["--count", count]).args(more).arg("--replay").arg(&recording);
        command
    };
    replay("3", &[]).assert().success();
    assert_eq!(prompts(&out), ["One fox", "Three hens", "[31mTwo jars"]);
    replay("4", &[]).assert().success();
    let message = stderr(&mut replay("4", &["--strict-words"]), 1);
    assert!(message.contains("the recording ends after 3 replies, with 3 prompts"), "{message}");

    std::fs::write(&recording, "{\"reply\": \"4. A\"}\n{\"replies\": 4}\n").unwrap();
    assert!(stderr(&mut replay("1", &[]), 1).contains("r.jsonl: line 2: missing field `reply`"));
    std::fs::write(&recording, "").unwrap();
    assert!(stderr(&mut replay("1", &[]), 1).contains("holds no replies"));
}

#[test]
fn what_is_wrong_on_the_command_line_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.json");
    for (arguments, words) in [
        (&[][..], "--llm URL"),
        (&["--writer", "poet"], "--writer poet: expected builtin"),
        (&["--llm", "http://x"], "--llm-model"),
        (&["--llm", "x", "--llm-model", "m"], "begins with http"),
        (&["--replay", "r", "--max-similarity", "80"], "--max-similarity: expected"),
        (&["--replay", "r", "--parallel", "0"], "--parallel: expected 1 to 64"),
        (&["--replay", "r", "--timeout", "nan"], "--timeout: expected"),
        (&["--llm", "http://x", "--llm-model", "m", "--max-cost", "1"], "--input-price"),
    ] {
        let message = stderr(selma(&out).args(arguments), 2);
        assert!(message.contains(words), "{arguments:?}: {message}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn the_built_in_writer_draws_different_captions_of_its_world() {
    let dir = tempfile::tempdir().unwrap();
    let written = |name: &str, seed: &str, count: &str| {
        let out = dir.path().join(name);
        selma(&out).args(["--writer", "builtin", "--count", count, "--seed", seed]).assert().success();
        prompts(&out)
    };
    let captions = written("a.json", "1", "30");
    assert_eq!(captions.len(), 30);
    assert_eq!(captions, written("b.json", "1", "30"));
    assert_eq!(captions[..10], written("c.json", "1", "10"));
    assert_ne!(captions, written("d.json", "2", "30"));
    for (i, caption) in captions.iter().enumerate() {
        selma::shapes::caption::parse(caption).unwrap();
        let similar = |other: &String| selma::prompting::rouge::rouge_l(caption, other) > 0.8;
        assert!(!captions[..i].iter().any(similar), "{caption}");
    }
    let message = stderr(
        selma(&dir.path().join("e.json")).args(["--writer", "builtin", "--count", "100", "--max-similarity", "0.1"]),
        1,
    );
    assert!(message.contains("too similar"), "{message}");
}
