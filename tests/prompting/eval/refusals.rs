//! What cannot be asked or scored, and files that mean no good.

use assert_cmd::Command;
use serde_json::json;

use super::{draw_images, eval, judge, live, questions, refused, summary};
use crate::server::{Server, failure};

#[test]
fn an_item_without_any_answer_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    questions(dir.path());
    let [answers, scores] = ["answers.csv", "scores.json"].map(|name| dir.path().join(name));
    let of = |rows: &str| {
        std::fs::write(&answers, format!("item_id,question_id,answer\r\n{rows}")).unwrap();
        let mut command = eval(dir.path(), &scores);
        command.arg("--answers").arg(&answers);
        command
    };
    let two = "whoops_1,1,yes\r\nwhoops_1,2,no\r\nvrd_3,1,yes\r\nvrd_3,2,yes\r\n";
    refused(&mut of(two), 1, &["1 of 3 items", "no answer, vrd_2 first", "--allow-missing"]);
    let found = summary(of(two).arg("--allow-missing"));
    assert_eq!((&found["asked"]["missing_items"], &found["overall"]["mean"]), (&json!(1), &json!(0.75)));
    // A part of an item is not left out.
    let mut part = of("whoops_1,1,yes\r\n");
    refused(part.arg("--allow-missing"), 1, &["no answer to question 2 of item whoops_1"]);
}

#[test]
fn what_cannot_be_asked_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let [images, scores] = ["images", "scores.json"].map(|name| dir.path().join(name));
    questions(dir.path());
    draw_images(&images, 9);
    let server = Server::start(|_, _| failure(401, "no such key sk-do-not-show-this", "invalid_api_key"));
    let of = |more: &[&str]| {
        let mut command = eval(dir.path(), &scores);
        command.arg("--images").arg(&images).args(more);
        command
    };
    refused(&mut live(dir.path(), &images, &scores, &server.url), 1, &["OPENAI_API_KEY", "401"]);
    assert!(!scores.exists());
    refused(&mut of(&["--judge", &server.url]), 2, &["--judge-model"]);
    refused(&mut of(&["--judge", "builtin"]), 2, &["shapes alone"]);
    refused(&mut of(&["--judge", "ftp://x", "--judge-model", "m"]), 2, &["--judge", "http"]);
    refused(&mut of(&[]), 2, &["--judge"]);
    let away = ["--judge", "https://example.org", "--judge-model", "m", "--offline"];
    refused(&mut of(&away), 2, &["--offline"]);
    std::fs::write(images.join("1.jpg"), "GIF89a").unwrap();
    let working = Server::start(judge);
    refused(&mut live(dir.path(), &images, &scores, &working.url), 1, &["1.jpg", "not PNG, JPEG or WebP"]);
    assert!(!scores.exists());
}

/// Files of questions and answers may come from anybody: what they hold does not reach the terminal as more than text.
#[test]
fn a_file_cannot_command_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let path = questions(dir.path());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("color", "col\u{1b}]0;owned\u{7}\u{202e}our\u{9b}2J")).unwrap();
    draw_images(&dir.path().join("images"), 1);
    let answers = dir.path().join("answers.csv");
    let eval = || {
        let mut command = Command::cargo_bin("selma").unwrap();
        command.args(["eval", "--overwrite", "--benchmark", "dsg", "--questions"]).arg(&path);
        command.arg("--images").arg(dir.path().join("images")).arg("--answers").arg(&answers);
        command.arg("--out").arg(dir.path().join("scores.json"));
        let output = command.output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let odd = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!said.contains(odd), "{said:?}");
        said
    };
    let rows = |items: &[&str]| -> String {
        let of_item = |item: &&str| format!("{item},1,yes\n{item},2,no\n");
        items.iter().map(of_item).collect()
    };
    let head = "item_id,question_id,answer\n";
    std::fs::write(&answers, format!("{head}{}", rows(&["whoops_1", "vrd_2", "vrd_3"]))).unwrap();
    assert!(eval().contains("attribute - col"));
    std::fs::write(&answers, format!("{head}{}", rows(&["no\u{1b}[2Jbody"]))).unwrap();
    assert!(eval().contains("is not among the questions"));
}
