//! `selma regenerate`, with recorded replies.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::{Answer, Server};
use crate::{bytes, run, says};

fn reference(dir: &Path, name: &str, colour: [u8; 3]) {
    let inside = |x: u32, y: u32| (x.abs_diff(32).pow(2) + y.abs_diff(32).pow(2)) < 200;
    let image = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb(if inside(x, y) { colour } else { [240; 3] }));
    image.save(dir.join(name)).unwrap();
}

const REPLIES: [&str; 4] = [
    "a photo of\n a large red circle",
    "I see no difference.",
    "```json\n{\"differences\": [\"too small\"], \"prompt\": \"a large red circle on a white background\"}\n```",
    "{\"prompt\": \"a small blue star\"}",
];

fn recording(dir: &Path, replies: &[&str]) {
    let lines: String = replies.iter().map(|reply| format!("{}\n", json!({"reply": reply}))).collect();
    std::fs::write(dir.join("replies.jsonl"), lines).unwrap();
}

const COMMAND: [&str; 13] = [
    "regenerate",
    "--model",
    "shapes",
    "--steps",
    "2",
    "--candidates",
    "2",
    "--rounds",
    "4",
    "--patience",
    "4",
    "--objective",
    "histogram",
];

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap()
}

/// The one folder of a reference in `out`.
fn folder(out: &Path) -> std::path::PathBuf {
    let mut entries = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    entries.next().unwrap()
}

#[test]
fn a_recorded_loop_has_its_trace_and_goes_on_where_it_was_ended() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    reference(dir, "red.png", [220, 30, 30]);
    recording(dir, &REPLIES);
    let command = |out: &'static str| {
        [&COMMAND[..], &["--reference", "red.png", "--replay", "replies.jsonl", "--out", out]].concat()
    };
    let shown = run(dir, &command("out"));
    let own = folder(&dir.join("out"));
    let trace = json_of(&own.join("trace.json"));
    let rounds = trace["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 4);
    let prompts: Vec<&str> = rounds.iter().map(|round| round["prompt"].as_str().unwrap()).collect();
    // The second reply cannot be used: its prompt stays, with new noise.
    let first = "a photo of a large red circle";
    assert_eq!(prompts, [first, first, "a large red circle on a white background", "a small blue star"]);
    assert_eq!((&trace["unusable_replies"], &rounds[1]["unusable"]), (&json!(1), &json!(true)));
    assert_eq!(rounds[2]["differences"], json!(["too small"]));
    let files: Vec<&Value> = rounds.iter().flat_map(|r| r["candidates"].as_array().unwrap()).collect();
    let indices: Vec<u64> = files.iter().map(|c| c["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, (0..8).collect::<Vec<u64>>());
    assert_ne!(bytes(&own.join("00-00.png")), bytes(&own.join("01-00.png")), "new noise");
    // The best is the first of the largest scores.
    let scores: Vec<f64> = files.iter().map(|c| c["score"].as_f64().unwrap()).collect();
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let place = scores.iter().position(|score| *score == best).unwrap();
    assert_eq!(trace["best"], json!([place / 2, place % 2, best]));
    let identity = &trace["identity"];
    let expected = json!({"clip_i": null, "ssim": 1.0, "psnr": null, "mae": 0.0, "histogram": 1.0, "identical": true});
    assert_eq!(*identity, expected);
    assert!(shown.contains("mean of 1: ") && shown.contains("red.png: histogram"), "{shown}");
    let sheet = image::open(own.join("sheet.png")).unwrap().into_rgb8();
    assert_eq!(sheet.dimensions(), (3 * 204, 4 * 204));

    // As a kill leaves it: some images, and no trace.
    run(dir, &command("again"));
    let again = folder(&dir.join("again"));
    for file in ["trace.json", "sheet.png", "02-01.png", "03-00.png", "03-01.png"] {
        std::fs::remove_file(again.join(file)).unwrap();
    }
    says(dir, &command("again"), 1, &["regenerate.json", "--resume"]);
    run(dir, &[&command("again")[..], &["--resume"]].concat());
    for file in ["trace.json", "sheet.png", "02-01.png", "03-01.png"] {
        assert_eq!(bytes(&own.join(file)), bytes(&again.join(file)), "{file}");
    }
    says(dir, &[&command("again")[..], &["--resume", "--seed", "5"]].concat(), 1, &["other settings"]);
    recording(dir, &REPLIES[..2]);
    says(dir, &command("short"), 1, &["no reply to request 2", "--llm"]);
    says(dir, &COMMAND, 2, &["--reference", "--out"]);
}

#[test]
fn an_endpoint_sees_both_images_and_clip_compares_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("set")).unwrap();
    reference(dir, "set/red.png", [220, 30, 30]);
    reference(dir, "set/blue.png", [30, 30, 220]);
    let seen = Server::start(|_, request| {
        let parts = request.body["messages"][0]["content"].as_array().unwrap().clone();
        let revises = parts.len() == 3;
        let text = if revises { "{\"prompt\": \"a blue circle\"}" } else { "a circle" };
        Answer::Json(200, json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}))
    });
    let clip = crate::clip(dir);
    let command =
        ["regenerate", "--model", "shapes", "--steps", "2", "--candidates", "1", "--rounds", "2", "--llm", &seen.url];
    let more = ["--llm-model", "eyes", "--reference", "set", "--clip", &clip, "--out", "out", "--json"];
    let report: Value = serde_json::from_str(&run(dir, &[&command[..], &more].concat())).unwrap();
    assert_eq!((&report["n"], &report["objective"]), (&json!(2), &json!("clip-i")));
    let requests = seen.seen();
    assert_eq!(requests.len(), 4);
    let images: Vec<usize> =
        requests.iter().map(|r| r.body["messages"][0]["content"].as_array().unwrap().len() - 1).collect();
    assert_eq!(images, [1, 2, 1, 2], "the reference, then the reference and the best candidate");
    let trace = json_of(&folder(&dir.join("out")).join("trace.json"));
    assert!((trace["identity"]["clip_i"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    assert!(trace["judge"].as_str().unwrap().contains("weights"));
    // Everything was recorded: the same again without the endpoint.
    let replay =
        ["regenerate", "--model", "shapes", "--steps", "2", "--candidates", "1", "--rounds", "2", "--reference", "set"];
    run(dir, &[&replay[..], &["--clip", &clip, "--replay", "out/replies.jsonl", "--out", "replayed"]].concat());
    let scores = |out: &str| json_of(&dir.join(out).join("scores.json"))["mean"].clone();
    assert_eq!(scores("out"), scores("replayed"));
}
