//! Prompt files in all their forms.

use selma::data::prompts::{Prompt, read};
use selma::generate::{Generation, Guidance, Request};
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
fn an_item_of_dsgs_table_is_one_prompt() {
    let header = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,\
                  question_natural_language";
    let rows = [
        "whoops_5,\"A \"\"caf\u{e9}\"\", at night\",k,1,0,entity,whole,t,Is there a caf\u{e9}?",
        "whoops_5,\"A \"\"caf\u{e9}\"\", at night\",k,2,1,entity,whole,t,Is it night?",
        "drawtext_1,\"a sign\r\nof two lines\",k,2,1,entity,whole,t,Is there a sign?",
        "vrd_1,the same,k,1,0,entity,whole,t,One?",
        "vrd_2,the same,k,1,0,entity,whole,t,One?",
    ];
    let table = |rows: &[&str]| format!("\u{feff}{header}\r\n{}\r\n", rows.join("\r\n"));
    let prompts = file("dsg.csv", table(&rows).as_bytes()).unwrap();
    let read: Vec<(&str, &serde_json::Value)> = prompts.iter().map(|p| (p.text.as_str(), &p.rest["item_id"])).collect();
    assert_eq!(
        read,
        [
            ("A \"caf\u{e9}\", at night", &json!("whoops_5")),
            ("a sign\r\nof two lines", &json!("drawtext_1")),
            ("the same", &json!("vrd_1")),
            ("the same", &json!("vrd_2")),
        ]
    );
    assert_eq!(prompts[0].item_id().as_deref(), Some("whoops_5"));
    let twice = table(&[rows[3], rows[0], "vrd_1,another,k,2,0,entity,whole,t,Two?"]);
    let message = file("dsg.csv", twice.as_bytes()).unwrap_err();
    assert!(message.contains("line 4: item vrd_1 has another text"), "{message}");
    // Any other table: a row a prompt.
    let prompts = file("p.csv", b"id,prompt,skill\n7,x,counting\n7,x,\n").unwrap();
    assert_eq!(json!(prompts[0].rest), json!({"id": "7", "skill": "counting"}));
    assert_eq!((prompts.len(), prompts[1].text.as_str()), (2, "x"));
    // PartiPrompts is a table with tabs and large letters.
    let parti = "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tBiology\n\"a \"\"cat\"\"\"\tA\tB\t\n";
    let prompts = file("PartiPrompts.tsv", parti.as_bytes()).unwrap();
    assert_eq!(json!(prompts[0].rest), json!({"Category": "Abstract", "Challenge": "Basic", "Note": "Biology"}));
    assert_eq!((prompts.len(), prompts[0].text.as_str(), prompts[1].text.as_str()), (2, "bond", "a \"cat\""));
    assert!(file("p.tsv", b"a cat\n").unwrap_err().contains("no column `text`"));
}

/// Tables with gaps, as pandas writes them, have 7.0 for 7 and null for nothing.
#[test]
fn whole_numbers_may_have_a_point() {
    let prompts =
        file("p.jsonl", br#"{"text": "a", "seed": 7.0, "steps": "20.0", "width": null, "height": 64}"#).unwrap();
    let shared = Generation {
        scheduler: None,
        steps: 50,
        guidance: Guidance { scale: 7.5, rescale: 0.0 },
        negative: None,
        size: (32, 32),
        clip_skip: 0,
        seed: 1,
    };
    let made = Request::new(&prompts[0], [0, 0, 1], &shared).unwrap().generation;
    assert_eq!((made.seed, made.steps, made.size), (7, 20, (64, 32)));
    for text in [r#"{"text": "a", "seed": 7.5}"#, r#"{"text": "a", "steps": -2.0}"#, r#"{"text": "a", "width": 1e30}"#]
    {
        let prompts = file("p.jsonl", text.as_bytes()).unwrap();
        assert!(crate::message(Request::new(&prompts[0], [0, 0, 1], &shared)).contains("whole number"), "{text}");
    }
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
        ("p.csv", b"id,words\n1,x\n", &["line 1", "no column `text`"]),
        ("p.csv", b"id,text\n1,x,y\n", &["line: 2"]),
    ] {
        let message = file(name, bytes).unwrap_err();
        assert!(words.iter().all(|w| message.contains(w)) && message.contains(name), "{message}");
    }
}
