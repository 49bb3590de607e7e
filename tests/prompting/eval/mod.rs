//! `selma eval` with a judge that sees, on images whose colour is their number.

mod refusals;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};

use crate::server::{Answer, Request, Server, chat};

const KEY: &str = "sk-do-not-show-this";

/// Three items; the second question of each depends on the first.
fn questions(dir: &Path) -> PathBuf {
    let mut text = String::from(
        "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,\
         question_natural_language\r\n",
    );
    for (item, prompt) in [("whoops_1", "a cat"), ("vrd_2", "a dog"), ("vrd_3", "a tree")] {
        text += &format!("{item},{prompt},k,1,0,entity,whole,t,Is there something?\r\n");
        text += &format!("{item},{prompt},k,2,1,attribute,color,t,Is it {prompt} in red?\r\n");
    }
    let path = dir.join("questions.csv");
    std::fs::write(&path, text).unwrap();
    path
}

/// Images of the three prompts. The name of the second lies about what it is.
fn draw_images(dir: &Path, shade: u8) {
    std::fs::create_dir(dir).unwrap();
    let mut rows = String::new();
    for (index, (name, prompt)) in [("0.png", "a cat"), ("1.jpg", "a dog"), ("2.png", "a tree")].iter().enumerate() {
        let mut image = Vec::new();
        let canvas = image::RgbImage::from_pixel(8, 8, image::Rgb([shade, index as u8, 0]));
        let mut place = std::io::Cursor::new(&mut image);
        canvas.write_to(&mut place, image::ImageFormat::Png).unwrap();
        std::fs::write(dir.join(name), image).unwrap();
        rows += &format!("{}\n", json!({"file_name": name, "text": prompt, "seed": 1, "index": index}));
    }
    std::fs::write(dir.join("metadata.jsonl"), rows).unwrap();
}

/// What is asked, of the text before the image.
fn asked(request: &Request) -> String {
    let text = request.body["messages"][0]["content"][0]["text"].as_str().unwrap();
    text.split("Question: ").nth(1).unwrap().to_owned()
}

/// Something is always there; only the cat is red, if "yes, it is" means that.
fn judge(_: usize, request: &Request) -> Answer {
    match asked(request).as_str() {
        "Is there something?" => chat("Yes.", "stop"),
        "Is it a cat in red?" => chat(" yes, it is", "stop"),
        "Is it a dog in red?" => chat("A dog!", "stop"),
        _ => chat("No", "stop"),
    }
}

fn eval(dir: &Path, out: &Path) -> Command {
    of_benchmark("dsg", dir, out)
}

fn of_benchmark(name: &str, dir: &Path, out: &Path) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.args(["eval", "--benchmark", name, "--quiet", "--json", "--retries", "0", "--overwrite"]);
    command.arg("--questions").arg(dir.join("questions.csv"));
    command.arg("--out").arg(out).env("OPENAI_API_KEY", KEY);
    command
}

fn live(dir: &Path, images: &Path, out: &Path, url: &str) -> Command {
    let mut command = eval(dir, out);
    command.args(["--judge", url, "--judge-model", "seer", "--images"]).arg(images);
    command
}

fn summary(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    assert!(!message.contains(KEY));
}

#[test]
fn a_judge_that_sees_is_asked_once_and_its_record_scores_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let [images, scores, again] = ["images", "scores.json", "again.json"].map(|name| dir.path().join(name));
    questions(dir.path());
    draw_images(&images, 9);
    let server = Server::start(judge);
    let of = |command: &mut Command| summary(command.arg("--parallel").arg("3"));
    let first = of(&mut live(dir.path(), &images, &scores, &server.url));
    assert_eq!(first["overall"]["mean"], 4.0 / 6.0);
    assert_eq!((&first["judge"], &first["asked"]["not_understood"]), (&json!("seer"), &json!(1)));
    assert_eq!(first["families"]["defying"]["mean"], 1.0);

    let requests = server.seen();
    assert_eq!(requests.len(), 6);
    let body = &requests[0].body;
    assert_eq!((&body["model"], &body["temperature"], &body["max_tokens"]), (&json!("seer"), &json!(0.0), &json!(20)));
    let urls = requests.iter().map(|r| r.body["messages"][0]["content"][1]["image_url"]["url"].as_str().unwrap());
    assert!(urls.clone().all(|url| url.starts_with("data:image/png;base64,iVBORw0KGgo")));
    assert!(requests[0].headers.iter().any(|line| line.contains(KEY)));

    // From the record: no question twice, the same bytes; a killed run asks for the rest alone.
    let bytes = std::fs::read(&scores).unwrap();
    of(&mut live(dir.path(), &images, &scores, &server.url));
    assert_eq!((server.seen().len(), std::fs::read(&scores).unwrap()), (6, bytes.clone()));
    let record = dir.path().join("scores.answers.jsonl");
    let lines = std::fs::read_to_string(&record).unwrap();
    assert!(!lines.contains(KEY) && !lines.contains("base64"));
    let cut = lines.len() - lines.lines().last().unwrap().len() / 2;
    std::fs::write(&record, &lines[..cut]).unwrap();
    of(&mut live(dir.path(), &images, &scores, &server.url));
    assert_eq!((server.seen().len(), std::fs::read(&scores).unwrap()), (7, bytes));

    // The record is a file of answers too.
    let mut offline = eval(dir.path(), &again);
    offline.arg("--answers").arg(&record).arg("--images").arg(&images);
    let mut second = summary(&mut offline);
    assert_eq!(second["judge"], "answers");
    second["judge"] = first["judge"].clone();
    assert_eq!(second, first);
}

#[test]
fn sets_are_compared_and_what_is_missing_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let [tuned, base, scores, other] = ["tuned", "base", "scores.json", "base.json"].map(|name| dir.path().join(name));
    questions(dir.path());
    draw_images(&tuned, 9);
    draw_images(&base, 8);
    // A judge that sees the second set's images as worse.
    let base_url = |request: &Request| request.body["messages"][0]["content"][1]["image_url"]["url"].to_string();
    let known = std::fs::read(base.join("0.png")).unwrap();
    let known = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(known)
    };
    let server = Server::start(move |number, request| match base_url(request).contains(&known) {
        true => chat("no", "stop"),
        false => judge(number, request),
    });
    let mut command = live(dir.path(), &tuned, &scores, &server.url);
    let found = summary(command.arg("--against").arg(&base));
    let against = &found["against"];
    assert_eq!(against["overall"]["values"], 3);
    assert_eq!(against["overall"]["mean"], 1.0 / 3.0);
    assert!(against["overall"]["interval"][0].as_f64().unwrap() >= 0.0 && against["overall"]["p_value"].is_number());
    assert_eq!(against["families"]["defying"]["mean"], 1.0);
    // Against the scores of an earlier run: the same.
    summary(&mut live(dir.path(), &base, &other, &server.url));
    let mut command = live(dir.path(), &tuned, &scores, &server.url);
    assert_eq!(&summary(command.arg("--against").arg(&other))["against"], against);

    std::fs::remove_file(tuned.join("2.png")).unwrap();
    refused(&mut live(dir.path(), &tuned, &scores, &server.url), 1, &["1 of 3 images", "2.png", "--allow-missing"]);
    let rows = std::fs::read_to_string(tuned.join("metadata.jsonl")).unwrap();
    let two: String = rows.lines().take(2).map(|line| format!("{line}\n")).collect();
    std::fs::write(tuned.join("metadata.jsonl"), two).unwrap();
    refused(&mut live(dir.path(), &tuned, &scores, &server.url), 1, &["1 of 3 items", "vrd_3", "--allow-missing"]);
    let mut command = live(dir.path(), &tuned, &scores, &server.url);
    let found = summary(command.arg("--allow-missing"));
    assert_eq!((&found["asked"]["missing_items"], &found["overall"]["values"]), (&json!(1), &json!(2)));
    // Images that are named after the items need no metadata.
    std::fs::remove_file(tuned.join("metadata.jsonl")).unwrap();
    std::fs::rename(tuned.join("0.png"), tuned.join("whoops_1.png")).unwrap();
    let mut command = live(dir.path(), &tuned, &scores, &server.url);
    let found = summary(command.arg("--allow-missing"));
    assert_eq!((&found["asked"]["missing_items"], &found["overall"]["mean"]), (&json!(2), &json!(1.0)));
}

#[test]
fn tifas_choices_are_in_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let [images, scores] = ["images", "scores.json"].map(|name| dir.path().join(name));
    draw_images(&images, 9);
    let question = |id: &str, caption: &str, choices: [&str; 3], answer: &str| {
        json!({"id": id, "caption": caption, "question": "what is it?", "choices": choices, "answer": answer,
               "element_type": "object", "element": "x"})
    };
    let list = json!([
        question("coco_1", "a cat", ["a cat", "a dog", "a cow"], "a cat"),
        question("coco_2", "a dog", ["a fox", "a dog", "a cow"], "a dog"),
        question("coco_3", "a tree", ["a bush", "grass", "a tree"], "a tree"),
    ]);
    std::fs::write(dir.path().join("questions.csv"), list.to_string()).unwrap();
    let server = Server::start(|_, request| match asked(request).as_str() {
        "what is it? Options: a cat, a dog, a cow" => chat("a cat", "stop"),
        "what is it? Options: a fox, a dog, a cow" => chat("It is the dog.", "stop"),
        // As some endpoints say it when a model refuses.
        _ => Answer::Json(200, json!({"choices": [{"message": {"content": null}}]})),
    });
    let mut command = of_benchmark("tifa", dir.path(), &scores);
    command.args(["--judge", &server.url, "--judge-model", "seer", "--images"]).arg(&images);
    let found = summary(&mut command);
    // The third has no answer, after two tries with longer replies: it is left out, and not scored as wrong.
    assert_eq!((&found["overall"]["mean"], &found["overall"]["values"]), (&json!(1.0), &json!(2)));
    assert_eq!(found["asked"]["matching"], json!({"literal": 0.5, "contained": 0.5}));
    assert_eq!(found["asked"]["unanswered"], 1);
    let lengths: Vec<u64> = server.seen().iter().filter_map(|request| request.body["max_tokens"].as_u64()).collect();
    assert_eq!((lengths.len(), lengths.iter().max()), (5, Some(&2560)));
}

/// The inputs of report F2: a model that thinks is cut, then answers in a sentence; another says nothing at all.
#[test]
fn a_cut_or_empty_reply_is_asked_again_and_is_never_a_no() {
    let dir = tempfile::tempdir().unwrap();
    let [images, scores] = ["images", "scores.json"].map(|name| dir.path().join(name));
    questions(dir.path());
    draw_images(&images, 9);
    let server = Server::start(|_, request| match (asked(request).as_str(), request.body["max_tokens"].as_u64()) {
        ("Is there something?", Some(20)) => chat("<think>There is a", "length"),
        ("Is there something?", _) => chat("<think>There is a cat.</think> The answer is **yes**.", "stop"),
        ("Is it a cat in red?", _) => chat("", "stop"),
        ("Is it a dog in red?", Some(20)) => chat("No", "length"),
        _ => chat("\\boxed{no}", "stop"),
    });
    let found = summary(&mut live(dir.path(), &images, &scores, &server.url));
    // A yes and nothing; a yes and a no; a yes and a no.
    assert_eq!(found["overall"]["mean"], 2.0 / 3.0);
    assert_eq!((&found["asked"]["unanswered"], &found["asked"]["not_understood"]), (&json!(1), &json!(0)));
    // Two requests for each thought, three for what stays empty, one for each of the others.
    assert_eq!(server.seen().len(), 3 * 2 + 3 + 1 + 1);
    // What has no answer is asked for again by the next command, and nothing else.
    summary(&mut live(dir.path(), &images, &scores, &server.url));
    assert_eq!(server.seen().len(), 11 + 3);
}
