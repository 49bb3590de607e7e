//! What is in the folder already is not lost.

use super::{generate, refuses};
use crate::{bytes, drawn};

#[test]
fn images_that_are_there_are_replaced_only_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let file = dir.path().join("p.txt");
    std::fs::write(&file, "a cat\ntwo dogs\n").unwrap();
    generate(&out).arg("--prompts").arg(&file).assert().success();
    let (images, rows) = (drawn(&out), bytes(out.join("metadata.jsonl")));
    refuses(generate(&out).args(["--prompt", "a hen"]), 1, &["metadata.jsonl", "--resume", "--overwrite", "--out"]);
    refuses(generate(&out).args(["--prompt", "a hen", "--resume"]), 1, &["00000.png", "not made by this command"]);
    assert!(drawn(&out) == images && bytes(out.join("metadata.jsonl")) == rows);
    // An image without a list is one too.
    std::fs::remove_file(out.join("metadata.jsonl")).unwrap();
    refuses(generate(&out).args(["--prompt", "a hen"]), 1, &["00000.png", "--overwrite"]);
    generate(&out).arg("--prompts").arg(&file).arg("--resume").assert().success();
    assert!(drawn(&out) == images && bytes(out.join("metadata.jsonl")) == rows);
}

#[test]
fn a_second_command_does_not_shorten_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let file = dir.path().join("p.txt");
    std::fs::write(&file, "a cat\ntwo dogs\na red house\n").unwrap();
    generate(&out).arg("--prompts").arg(&file).assert().success();
    generate(&out).args(["--prompt", "a hen", "--overwrite"]).assert().success();
    std::fs::remove_file(out.join("00002.png")).unwrap();
    generate(&out).args(["--prompt", "a hen", "--resume"]).assert().success();
    let text = String::from_utf8(bytes(out.join("metadata.jsonl"))).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["file_name"].as_str().unwrap(), row["text"].as_str().unwrap())).collect();
    // The row of an image that is gone goes too.
    assert_eq!(named, [("00000.png", "a hen"), ("00001.png", "two dogs")]);
}
