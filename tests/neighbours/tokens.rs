//! Tokens that are learned: `selma train --class-token`, `selma mix train`, and what draws with them.

use std::path::Path;

use selma::formats::embeddings::Embeddings;
use selma::shapes::caption::parse;
use selma::shapes::judge::Taught;
use selma::shapes::render;
use selma::shapes::rng::Rng;
use selma::shapes::scene::lay_out;

use crate::{bytes, killed, photos, pixels, run, says};

/// A shape of the world; upside down, it is one that the world has no word for.
fn drawn(caption: &str, index: u64, upside_down: bool) -> image::RgbImage {
    let image = render(&lay_out(&parse(caption).unwrap(), &mut Rng::of_caption(5, index)).unwrap());
    if upside_down { image::imageops::flip_vertical(&image) } else { image }
}

const COLOURS: [&str; 4] = ["orange", "yellow", "green", "cyan"];

/// Two classes: triangles on their tip, and circles.
fn classes(dir: &Path, count: u64) {
    for (class, shape) in [("a tip", "triangle"), ("round", "circle")] {
        let folder = dir.join("classes").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for index in 0..count {
            let caption = format!("a {} {shape}", COLOURS[index as usize % 4]);
            drawn(&caption, index, shape == "triangle").save(folder.join(format!("{index:02}.png"))).unwrap();
        }
    }
}

const FEW: [&str; 12] = [
    "--rank",
    "2",
    "--steps",
    "4",
    "--batch-size",
    "2",
    "--grad-accum",
    "1",
    "--save-every",
    "2",
    "--precision",
    "f32",
];

#[test]
fn class_tokens_and_a_lora_go_on_after_a_kill_and_draw() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(dir, 4);
    let train = |out: &'static str| {
        [&["mix", "train", "--model", "shapes", "--data", "classes", "--no-flip", "--out", out][..], &FEW[..]].concat()
    };
    run(dir, &train("whole"));
    killed(dir, &train("broken"), "\"step\":3,");
    says(dir, &train("broken"), 1, &["broken", "--resume"]);
    says(dir, &[&train("broken")[..], &["--resume", "--vectors", "2"]].concat(), 1, &["other tokens or settings"]);
    run(dir, &[&train("broken")[..], &["--resume"]].concat());
    for file in ["learned_embeds.safetensors", "lora.safetensors"] {
        assert_eq!(bytes(&dir.join("whole").join(file)), bytes(&dir.join("broken").join(file)), "{file}");
    }
    let learned = Embeddings::read(&dir.join("whole/learned_embeds.safetensors")).unwrap();
    let tokens: Vec<(&str, &[usize])> = learned.all.iter().map(|e| (e.token.as_str(), e.rows[0].shape())).collect();
    assert_eq!(tokens, [("<class_0>", &[1, 64][..]), ("<class_1>", &[1, 64][..])]);
    assert_eq!((learned.of_class("a tip"), learned.of_class("round")), (Some("<class_0>"), Some("<class_1>")));

    let embedding = ["--embedding", "whole/learned_embeds.safetensors", "--lora", "whole/lora.safetensors"];
    let draw = |prompt: &'static str, out: &'static str, more: &[&'static str]| {
        let command = ["generate", "--model", "shapes", "--steps", "2", "--prompt", prompt, "--out", out];
        run(dir, &[&command[..], more].concat());
        pixels(&dir.join(out)).remove(0)
    };
    // Without the file the token is a heap of other tokens.
    let with = draw("a photo of a <class_0>", "with", &embedding);
    assert_ne!(with, draw("a photo of a <class_0>", "without", &embedding[2..]));
    assert_ne!(with, draw("a photo of a <class_1>", "other", &embedding));

    let mix = ["mix", "generate", "--model", "shapes", "--data", "classes", "--steps", "4", "--strengths", "0.5"];
    run(dir, &[&mix[..], &embedding, &["--out", "mixed"]].concat());
    let labels = std::fs::read_to_string(dir.join("mixed/labels.jsonl")).unwrap();
    assert_eq!(labels.lines().count(), 8);
    // CLIP sorts out what does not show its class; here a tiny one with random weights.
    let clip = crate::clip(dir);
    let filter = ["mix", "filter", "--images", "mixed", "--clip", &clip];
    run(dir, &filter);
    let lines = |name: &str| std::fs::read_to_string(dir.join("mixed").join(name)).unwrap().lines().count();
    let judged = std::fs::read_to_string(dir.join("mixed/filter.jsonl")).unwrap();
    let kept = judged.lines().filter(|line| line.contains("\"kept\":true")).count();
    assert_eq!((lines("filter.jsonl"), lines("labels.kept.jsonl"), lines("meta.kept.csv")), (8, kept, kept + 1));
    for line in judged.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["kept"], row["with"].as_f64().unwrap() > row["without"].as_f64().unwrap());
    }
    says(dir, &filter, 1, &["labels.kept.jsonl", "--overwrite"]);
    std::fs::create_dir(dir.join("classes/third")).unwrap();
    std::fs::copy(dir.join("classes/round/00.png"), dir.join("classes/third/00.png")).unwrap();
    let third = [&mix[..], &embedding, &["--out", "more"]].concat();
    says(dir, &third, 1, &["no token of the class `third`", "a tip, round"]);
    says(dir, &[&train("broken")[..], &["--resume"]].concat(), 1, &["dataset.toml", "other classes"]);
}

#[test]
fn an_embedding_is_learned_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photos(dir, "photos", selma::shapes::Skill::Everyday, 2);
    for name in ["000.txt", "001.txt"] {
        std::fs::write(dir.join("photos").join(name), "a <Tip> on a page").unwrap();
    }
    let command = |tokens: &[&'static str], out: &'static str| {
        [&["train", "--model", "shapes", "--data", "photos", "--out", out][..], &FEW[..], tokens].concat()
    };
    run(dir, &command(&["--class-token", "<Tip>", "--vectors", "2", "--init-word", "triangle"], "out"));
    assert!(!dir.join("out/lora.safetensors").exists());
    let file = dir.join("out/learned_embeds.safetensors");
    let learned = Embeddings::read(&file).unwrap();
    assert_eq!((learned.all[0].token.as_str(), learned.all[0].rows[0].shape()), ("<Tip>", &[2, 64][..]));
    // One key, which is the token: what diffusers' load_textual_inversion expects of a file.
    let raw = selma::formats::safetensors::Safetensors::open(&file).unwrap();
    assert_eq!(raw.names().collect::<Vec<_>>(), ["<Tip>"]);
    let generate = ["generate", "--model", "shapes", "--steps", "2", "--out", "drawn", "--prompt", "a <Tip>"];
    run(dir, &[&generate[..], &["--embedding", "out/learned_embeds.safetensors"]].concat());
    // What is wrong is said before anything is learned.
    let refused = |tokens: &[&'static str], code: i32, words: &[&str]| says(dir, &command(tokens, "no"), code, words);
    refused(&["--class-token", "<Tip>", "--class-token", "<Tip>"], 2, &["<Tip>", "twice"]);
    refused(&["--class-token", "<Tip>", "--class-token", "<Top>"], 2, &["no caption", "<Top>"]);
    refused(&["--class-token", "<other>"], 1, &["000.png", "none of the tokens", "<other>"]);
    refused(&["--vectors", "2"], 2, &["--vectors", "--class-token"]);
    refused(&["--class-token", "<Tip>", "--ema", "0.9"], 2, &["--ema"]);
    let twice = ["--embedding", "out/learned_embeds.safetensors"].repeat(2);
    let generate = ["generate", "--model", "shapes", "--out", "no", "--prompt", "a <Tip>"];
    says(dir, &[&generate[..], &twice].concat(), 1, &["learned_embeds.safetensors", "`<Tip>` already"]);
    let sd = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/models/tiny-sd1").display().to_string();
    let other =
        ["generate", "--model", &sd, "--out", "no", "--prompt", "a", "--embedding", "out/learned_embeds.safetensors"];
    let vocab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/clip_vocab").display().to_string();
    says(dir, &[&other[..], &["--vocab", &vocab]].concat(), 1, &["<Tip>", "64 values", "another family"]);
}

/// A token that stands behind the first 75 tokens is seen by training in windows alone.
#[test]
fn a_token_late_in_a_long_caption_is_learned_with_long_prompts() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photos(dir, "photos", selma::shapes::Skill::Everyday, 2);
    let prompt = format!("a red circle{} and a <late> one", " very".repeat(80));
    for name in ["000.txt", "001.txt"] {
        std::fs::write(dir.join("photos").join(name), &prompt).unwrap();
    }
    let rows = |out: &'static str, more: &[&'static str]| {
        let command =
            ["train", "--model", "shapes", "--data", "photos", "--class-token", "<late>", "--init-word", "circle"];
        run(dir, &[&command[..], &FEW[2..], &["--weight-decay", "0", "--out", out], more].concat());
        let learned = Embeddings::read(&dir.join(out).join("learned_embeds.safetensors")).unwrap();
        learned.all[0].rows[0].data::<f32>().to_vec()
    };
    let (cut, whole) = (rows("cut", &[]), rows("whole", &["--long-prompts"]));
    // Cut, the token is in no caption that is read, and nothing moves it from the word that it starts from.
    let start = rows("start", &["--long-prompts", "--lr", "1e-30", "--embedding-lr", "1e-30"]);
    assert_eq!(cut, start);
    assert!(whole.iter().zip(&start).all(|(a, b)| a != b), "every value moves");
    let draw = |out: &'static str| {
        let embedding = format!("{out}/learned_embeds.safetensors");
        let drawn = format!("{out}/drawn");
        let command = ["generate", "--model", "shapes", "--steps", "2", "--long-prompts", "--prompt", &prompt];
        run(dir, &[&command[..], &["--embedding", &embedding, "--out", &drawn]].concat());
        pixels(&dir.join(drawn))
    };
    assert_ne!(draw("whole"), draw("start"));
}

/// The judge says how often the token draws what it was taught, and the base's words for it do not.
#[test]
fn a_token_teaches_a_shape_that_the_base_has_no_word_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(dir, 32);
    std::fs::remove_dir_all(dir.join("classes/round")).unwrap();
    let train = ["mix", "train", "--model", "shapes", "--data", "classes", "--no-flip", "--out", "out", "--rank", "16"];
    let settings = [
        "--targets",
        "all-linear,conv",
        "--lr",
        "2e-3",
        "--embedding-lr",
        "5e-3",
        "--steps",
        "150",
        "--batch-size",
        "8",
        "--init-word",
        "triangle",
    ];
    run(dir, &[&train[..], &settings].concat());
    let examples: Vec<image::RgbImage> = (100..130).map(|index| drawn("a green triangle", index, true)).collect();
    let taught = Taught::of(&examples).unwrap();
    let share = |prompt: &'static str, out: &'static str, more: &[&'static str]| {
        let command =
            ["generate", "--model", "shapes", "--images-per-prompt", "24", "--steps", "10", "--guidance", "2"];
        run(dir, &[&command[..], &["--batch-size", "24", "--prompt", prompt, "--out", out], more].concat());
        let images = (0..24).map(|i| image::open(dir.join(out).join(format!("{i:05}.png"))).unwrap().into_rgb8());
        images.filter(|image| taught.shows(image)).count()
    };
    let embedding = ["--embedding", "out/learned_embeds.safetensors", "--lora", "out/lora.safetensors"];
    let (learned, base) = (share("a photo of a <class_0>", "learned", &embedding), share("a triangle", "base", &[]));
    println!("learned {learned} of 24, base {base} of 24");
    assert!(base == 0 && learned >= 6, "learned {learned} of 24, base {base} of 24");
}
