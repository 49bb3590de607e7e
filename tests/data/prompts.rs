//! Prompt files in their three forms.

use selma::data::prompts::{Prompt, read};
use serde_json::json;

fn file(name: &str, bytes: &[u8]) -> Result<Vec<Prompt>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read(&path).map_err(|e| e.to_string())
}

#[test]
fn every_form_gives_the_same_prompts() {
    let expected = ["a cat", "two dogs, \"running\"", "日本"];
    let texts = |prompts: Vec<Prompt>| prompts.into_iter().map(|p| p.text).collect::<Vec<_>>();
    let lines = "\u{feff}a cat\r\n\n  two dogs, \"running\"\n日本";
    assert_eq!(texts(file("p.txt", lines.as_bytes()).unwrap()), expected);
    assert_eq!(texts(file("prompts", lines.as_bytes()).unwrap()), expected);
    let rows = json!([{"text": expected[0]}, {"prompt": expected[1]}, expected[2]]);
    assert_eq!(texts(file("p.json", rows.to_string().as_bytes()).unwrap()), expected);
    let lines: String = rows.as_array().unwrap().iter().map(|row| format!("{row}\n")).collect();
    assert_eq!(texts(file("p.JSONL", lines.as_bytes()).unwrap()), expected);
}

#[test]
fn what_else_a_record_says_is_kept() {
    let prompts = file("p.jsonl", br#"{"id": 7, "caption": "x", "skill": "counting"}"#).unwrap();
    assert_eq!(json!(prompts[0].rest), json!({"id": 7, "skill": "counting"}));
    let prompts = file("p.json", br#"{"b": "two", "a": {"text": "one", "k": 1}}"#).unwrap();
    assert_eq!((prompts[0].text.as_str(), &prompts[0].rest["id"]), ("two", &json!("b")));
    assert_eq!(json!(prompts[1].rest), json!({"k": 1, "id": "a"}));
    // An empty prompt is one, where it is written out.
    assert_eq!(file("p.jsonl", br#"{"text": ""}"#).unwrap()[0].text, "");
}

#[test]
fn what_is_no_prompt_is_named() {
    for (name, bytes, words) in [
        ("p.txt", &b"\n \n"[..], &["no prompt"][..]),
        ("p.txt", b"a\nb\xff", &["line 2", "UTF-8"]),
        ("p.jsonl", b"\"a\"\n{\"words\": 1}", &["line 2", "`text`"]),
        ("p.jsonl", b"{\"text\": 3}", &["line 1", "`text` is 3"]),
        ("p.jsonl", b"{\"text\": \"a\"", &["line 1"]),
        ("p.json", b"[\"a\", null]", &["entry 2", "null"]),
        ("p.json", b"{\"x\": []}", &["entry \"x\""]),
        ("p.json", b"3", &["expected a list"]),
        ("p.json", b"[", &["not valid JSON"]),
        ("p.json", b"[]", &["no prompt"]),
    ] {
        let message = file(name, bytes).unwrap_err();
        assert!(
            words.iter().all(|w| message.contains(w)) && message.contains(name),
            "{message}"
        );
    }
}
