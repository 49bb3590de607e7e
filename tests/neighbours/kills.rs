//! Commands that are killed at work and go on to the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Answer, Server};
use crate::{bytes, run};

/// All files of a folder, but for records whose lines come in the order in which replies arrive, and settings that name the
/// folder of the model.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for path in std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => collect(root, &path, found),
                false => drop(found.insert(path.strip_prefix(root).unwrap().into(), bytes(&path))),
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(dir, dir, &mut found);
    found.retain(|path, _| !path.to_string_lossy().ends_with("replies.jsonl") && !path.ends_with("regenerate.json"));
    found
}

fn images(dir: &Path) -> usize {
    files(dir).keys().filter(|path| path.extension().is_some_and(|ending| ending == "png")).count()
}

/// Starts a command, waits until `ready`, and kills it.
fn killed_when(dir: &Path, arguments: &[&str], ready: &dyn Fn() -> bool) {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("selma"));
    command.current_dir(dir).env("XDG_CACHE_HOME", dir.join(".cache")).arg("--quiet").args(arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !ready() {
        assert!(child.try_wait().unwrap().is_none(), "{arguments:?} ended before it could be killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(child.wait().unwrap().code().is_none(), "{arguments:?} ended before it could be killed");
}

/// What a kill leaves where it comes while a file is written; to be gone afterwards.
fn leave_half_a_file(folder: &Path) {
    std::fs::write(folder.join(".selma-00001.png-x.part"), "half").unwrap();
}

fn same(dir: &Path, [whole, broken]: [&str; 2]) {
    let (whole, broken) = (files(&dir.join(whole)), files(&dir.join(broken)));
    let names = whole.keys().chain(broken.keys());
    let differ: Vec<&PathBuf> = names.filter(|name| whole.get(*name) != broken.get(*name)).collect();
    assert!(!whole.is_empty() && differ.is_empty(), "{differ:?}");
}

#[test]
fn images_between_classes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, shade) in [("dark", 40), ("light", 220)] {
        std::fs::create_dir_all(dir.join("classes").join(name)).unwrap();
        let image = image::RgbImage::from_pixel(24, 20, image::Rgb([shade; 3]));
        image.save(dir.join("classes").join(name).join("1.png")).unwrap();
    }
    let command = |out: &'static str| {
        let mix = ["mix", "generate", "--model", "shapes", "--data", "classes", "--steps", "8", "--multiplier", "5"];
        [&mix[..], &["--out", out]].concat()
    };
    run(dir, &command("whole"));
    killed_when(dir, &command("broken"), &|| images(&dir.join("broken")) >= 3);
    assert!(images(&dir.join("broken")) < 10 && !dir.join("broken/meta.csv").exists());
    leave_half_a_file(&dir.join("broken/data"));
    run(dir, &[&command("broken")[..], &["--resume"]].concat());
    same(dir, ["whole", "broken"]);
}

/// Each in a folder of its own, because scores.json names the images from there.
#[test]
fn an_image_drawn_anew() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let replies = ["a red square", "{\"prompt\": \"a large red square\"}", "{\"prompt\": \"a red circle\"}"];
    let lines: String = replies.iter().map(|reply| format!("{}\n", json!({"reply": reply}))).collect();
    for name in ["whole", "broken"] {
        std::fs::create_dir(at(name)).unwrap();
        image::RgbImage::from_pixel(64, 64, image::Rgb([220, 30, 30])).save(at(name).join("red.png")).unwrap();
        std::fs::write(at(name).join("replies.jsonl"), &lines).unwrap();
    }
    let loops =
        ["regenerate", "--model", "shapes", "--steps", "8", "--candidates", "3", "--rounds", "3", "--out", "out"];
    let more = ["--patience", "3", "--objective", "histogram", "--reference", "red.png", "--replay", "replies.jsonl"];
    let command = [&loops[..], &more].concat();
    run(&at("whole"), &command);
    killed_when(&at("broken"), &command, &|| images(&at("broken/out")) >= 4);
    leave_half_a_file(&at("broken/out"));
    run(&at("broken"), &[&command[..], &["--resume"]].concat());
    same(dir.path(), ["whole/out", "broken/out"]);
}

#[test]
fn a_dialogue() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut lines = String::new();
    for turn in 1..=5 {
        let raw = format!("<image id=\"{turn}\">a red circle</image> and <variation>{turn}</variation>");
        lines += &format!("{}\n", json!({"role": "user", "turn": turn, "text": "go on"}));
        lines += &format!("{}\n", json!({"role": "assistant", "turn": turn, "raw": raw, "shown": "", "errors": []}));
    }
    std::fs::write(dir.join("recorded.jsonl"), lines).unwrap();
    let command = |out: &'static str| {
        ["chat", "--model", "shapes", "--steps", "8", "--replay", "recorded.jsonl", "--out", out].to_vec()
    };
    run(dir, &command("whole"));
    killed_when(dir, &command("broken"), &|| images(&dir.join("broken")) >= 3);
    leave_half_a_file(&dir.join("broken"));
    run(dir, &[&command("broken")[..], &["--resume"]].concat());
    same(dir, ["whole", "broken"]);
}

/// An endpoint that falls silent while `silent` says so, after two requests.
fn endpoint(silent: &Arc<AtomicBool>, reply: fn(&Value) -> String) -> Server {
    let silent = silent.clone();
    Server::start(move |number, request| {
        if silent.load(Ordering::SeqCst) && number >= 2 {
            return Answer::Stall;
        }
        let text = reply(&request.body);
        Answer::Json(200, json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}))
    })
}

#[test]
fn layouts_of_a_language_model() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let make = ["spatial", "make", "--objects", "circle,square,star", "--relations", "above,behind", "--count", "2"];
    run(dir, &[&make[..], &["--out", "suite.json"]].concat());
    let silent = Arc::new(AtomicBool::new(true));
    let server = endpoint(&silent, |body| {
        let width = 20 + body["messages"][0]["content"].as_str().unwrap().len() % 100;
        format!("{{\"objects\": [{{\"label\": \"circle\", \"box\": [10, 10, {}, 60]}}]}}", 10 + width)
    });
    let command = |out: &'static str| {
        let layout = ["spatial", "layout", "--prompts", "suite.json", "--llm-model", "m", "--parallel", "1", "--llm"];
        let more = [
            server.url.clone(),
            "--out".into(),
            format!("{out}/layouts.json"),
            "--images".into(),
            format!("{out}/scenes"),
        ];
        layout.iter().map(|part| (*part).to_owned()).chain(more).collect::<Vec<String>>()
    };
    let words = |command: &[String]| command.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
    let of = |command: Vec<String>, run: &dyn Fn(&[&str])| {
        run(&words(&command).iter().map(String::as_str).collect::<Vec<_>>())
    };
    std::fs::create_dir(dir.join("broken")).unwrap();
    of(command("broken"), &|arguments| killed_when(dir, arguments, &|| server.seen().len() > 2));
    assert!(!dir.join("broken/layouts.json").exists());
    silent.store(false, Ordering::SeqCst);
    let asked = server.seen().len();
    of(command("broken"), &|arguments| drop(run(dir, arguments)));
    // Eight prompts, of which two were answered before.
    assert_eq!(server.seen().len() - asked, 6);
    std::fs::create_dir(dir.join("whole")).unwrap();
    of(command("whole"), &|arguments| drop(run(dir, arguments)));
    same(dir, ["whole", "broken"]);
}

/// Two groups of two images, of which one was judged before the kill.
#[test]
fn which_text_belongs_to_which_image() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("prompts.txt"), "a red circle\na blue star\na green square\na yellow cross\n").unwrap();
    run(dir, &["generate", "--model", "shapes", "--prompts", "prompts.txt", "--steps", "1", "--out", "images"]);
    let clip = crate::clip(dir);
    let silent = Arc::new(AtomicBool::new(true));
    let asked = silent.clone();
    let server = Server::start(move |number, _| {
        if asked.load(Ordering::SeqCst) && number >= 1 {
            return Answer::Stall;
        }
        Answer::Json(
            200,
            json!({"choices": [{"message": {"content": "[Picture 1] [Picture 2]"}, "finish_reason": "stop"}]}),
        )
    });
    let command = |out: &'static str| {
        let judged = ["associate", "--images", "images", "--groups", "2", "--clip", &clip, "--llm", &server.url];
        [&judged[..], &["--llm-model", "eyes", "--out", out]].concat()
    };
    for out in ["broken", "whole"] {
        std::fs::create_dir(dir.join(out)).unwrap();
    }
    killed_when(dir, &command("broken/scores.json"), &|| server.seen().len() > 1);
    assert!(!dir.join("broken/scores.json").exists());
    silent.store(false, Ordering::SeqCst);
    let before = server.seen().len();
    run(dir, &command("broken/scores.json"));
    assert_eq!(server.seen().len() - before, 1, "the other group alone");
    run(dir, &command("whole/scores.json"));
    same(dir, ["whole", "broken"]);
}

/// A LoRA of the same name with other weights draws other images: work that was begun with the first one does not go on.
#[test]
fn another_lora_under_the_same_name_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    crate::photos(dir, "photos", selma::shapes::Skill::Everyday, 2);
    let train = |seed: &'static str, out: &'static str| {
        let train = ["train", "--model", "shapes", "--data", "photos", "--steps", "1", "--rank", "2", "--seed", seed];
        run(dir, &[&train[..], &["--out", out]].concat());
        bytes(&dir.join(out).join("lora.safetensors"))
    };
    let (first, second) = (train("1", "first"), train("2", "second"));
    std::fs::create_dir(dir.join("classes")).unwrap();
    std::fs::rename(dir.join("photos"), dir.join("classes/thing")).unwrap();
    let replies =
        ["a red square", "{\"prompt\": \"a large red square\"}"].map(|reply| format!("{}\n", json!({"reply": reply})));
    std::fs::write(dir.join("replies.jsonl"), replies.concat()).unwrap();
    let mix = ["mix", "generate", "--model", "shapes", "--data", "classes", "--mode", "aug", "--steps", "2"];
    let regenerate =
        ["regenerate", "--model", "shapes", "--reference", "classes/thing/000.png", "--replay", "replies.jsonl"];
    let more = ["--objective", "histogram", "--rounds", "1", "--candidates", "1", "--steps", "1"];
    for (command, settings) in [(mix.to_vec(), "mix.json"), ([&regenerate[..], &more].concat(), "regenerate.json")] {
        let command =
            [&command[..], &["--lora", "lora.safetensors", "--out", settings.trim_end_matches(".json")]].concat();
        std::fs::write(dir.join("lora.safetensors"), &first).unwrap();
        run(dir, &command);
        let again = [&command[..], &["--resume"]].concat();
        run(dir, &again);
        std::fs::write(dir.join("lora.safetensors"), &second).unwrap();
        crate::says(dir, &again, 1, &[settings, "LoRA", "name another folder"]);
    }
}
