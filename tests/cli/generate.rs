//! `selma generate`: what decides a picture, what is written beside it, and going on after a stop.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use selma::formats::png;

use crate::{bytes, drawn, parity, says, selma};

/// A command that draws in two steps with tiny-sd1.
fn generate(out: &Path) -> Command {
    draw_with("tiny-sd1", "2", out)
}

fn draw_with(model: &str, steps: &str, out: &Path) -> Command {
    let mut command = selma();
    command.args(["generate", "--steps", steps, "--quiet"]);
    command.arg("--model").arg(parity(&format!("models/{model}")));
    command.arg("--vocab").arg(parity("clip_vocab")).arg("--out").arg(out);
    command
}

fn pixels(png: &[u8]) -> Vec<u8> {
    image::load_from_memory(png).unwrap().into_rgb8().into_raw()
}

/// The one picture of a command, its pixels only: texts differ where settings do.
fn one(command: &mut Command, out: &Path) -> Vec<u8> {
    command.assert().success();
    pixels(&bytes(out.join("00000.png")))
}

fn refuses(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
}

const PROMPTS: &str = "a cat\ntwo dogs\n\na red house by the sea\n";

fn prompt_file(dir: &Path) -> PathBuf {
    let path = dir.join("prompts.txt");
    std::fs::write(&path, PROMPTS).unwrap();
    path
}

#[test]
fn a_resumed_run_gives_the_bytes_of_an_unbroken_one() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let run = |out: &Path| {
        let mut command = generate(out);
        // Six pictures in batches of four and two; a stochastic sampler.
        command.arg("--prompts").arg(prompt_file(dir.path()));
        command.args([
            "--images-per-prompt",
            "2",
            "--batch-size",
            "4",
            "--scheduler",
            "euler-a",
        ]);
        command
    };
    run(&whole).assert().success();
    run(&broken).assert().success();
    assert_eq!(drawn(&whole), drawn(&broken));
    let at = |i: usize| broken.join(format!("{i:05}.png"));
    // One gone and one of another seed, in the second batch; the first one is left alone.
    std::fs::remove_file(at(4)).unwrap();
    std::fs::remove_file(broken.join("metadata.jsonl")).unwrap();
    let other = dir.path().join("other");
    run(&other).args(["--seed", "43"]).assert().success();
    std::fs::copy(other.join("00005.png"), at(5)).unwrap();
    let written = |i: usize| std::fs::metadata(at(i)).unwrap().modified().unwrap();
    let before = [0, 1, 2, 3].map(written);
    let output = run(&broken).arg("--resume").assert().success();
    assert_eq!(before, [0, 1, 2, 3].map(written));
    assert_eq!(drawn(&whole), drawn(&broken));
    assert_eq!(
        bytes(whole.join("metadata.jsonl")),
        bytes(broken.join("metadata.jsonl"))
    );
    // All six are listed, drawn now or before.
    assert_eq!(String::from_utf8_lossy(&output.get_output().stdout).lines().count(), 6);
    // One that does not decode makes its whole batch be drawn again.
    let cut = bytes(at(1));
    std::fs::write(at(1), &cut[..cut.len() - 30]).unwrap();
    run(&broken).arg("--resume").assert().success();
    assert_eq!(drawn(&whole), drawn(&broken));
    assert!(written(0) > before[0]);
}

#[test]
fn other_settings_or_inputs_are_not_taken_for_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut previous = one(generate(&out).args(["--prompt", "a cat"]), &out);
    let lora = parity("cases/sample_sd1_lora/lora.safetensors");
    for options in [
        &["--seed", "1"][..],
        &["--guidance", "3"],
        &["--guidance-rescale", "0.7"],
        &["--negative", "a dog"],
        &["--scheduler", "euler"],
        &["--clip-skip", "1"],
        &["--width", "40"],
        &["--precision", "bf16"],
        &["--lora", lora.to_str().unwrap()],
        &["--lora", &format!("{}:0.5", lora.display())],
    ] {
        let mut command = generate(&out);
        let now = one(command.args(["--prompt", "a cat", "--resume"]).args(options), &out);
        assert!(now != previous, "{options:?} changed nothing");
        previous = now;
    }
}

#[test]
fn prompt_files_in_every_form_draw_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<&str> = PROMPTS.lines().filter(|line| !line.is_empty()).collect();
    let rows: Vec<serde_json::Value> = (lines.iter().enumerate())
        .map(|(i, line)| serde_json::json!({"prompt": line, "id": i, "seed": 9}))
        .collect();
    let (json, jsonl) = (dir.path().join("p.json"), dir.path().join("p.jsonl"));
    std::fs::write(&json, serde_json::Value::from(rows.clone()).to_string()).unwrap();
    std::fs::write(&jsonl, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let results = [prompt_file(dir.path()), json, jsonl].map(|file| {
        let out = file.with_extension("out");
        generate(&out).arg("--prompts").arg(&file).assert().success();
        let metadata = String::from_utf8(bytes(out.join("metadata.jsonl"))).unwrap();
        (drawn(&out), metadata)
    });
    assert_eq!(results[0].0.len(), 3);
    assert!(results[0].0 == results[1].0 && results[0].0 == results[2].0);
    assert_eq!(results[1].1, results[2].1);
    let row: serde_json::Value = serde_json::from_str(results[1].1.lines().nth(1).unwrap()).unwrap();
    // What the record says besides is kept; what the run decides is the run's.
    assert_eq!(
        row,
        serde_json::json!({"file_name": "00001.png", "text": "two dogs", "seed": 42, "index": 1, "id": 1})
    );
    // The result serves as a prompt file itself, and as training data.
    let again = dir.path().join("again");
    let metadata = dir.path().join("p.out/metadata.jsonl");
    generate(&again).arg("--prompts").arg(metadata).assert().success();
    assert_eq!(drawn(&again), results[0].0);
}

#[test]
fn pictures_say_how_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let (out, lora) = (dir.path().join("out"), dir.path().join("style.safetensors"));
    std::fs::copy(parity("cases/sample_sd1_lora/lora.safetensors"), &lora).unwrap();
    let mut command = generate(&out);
    command.args([
        "--prompt",
        "a cat, très 中\nin two lines",
        "--negative",
        "a dog",
        "--clip-skip",
        "1",
    ]);
    command.args(["--scheduler", "dpmpp-2m-karras", "--guidance", "4.5"]);
    command.arg("--lora").arg(format!("{}:0.5", lora.display()));
    command.assert().success();
    let text = png::parameters(&bytes(out.join("00000.png"))).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["a cat, très 中", "in two lines", "Negative prompt: a dog"]);
    for setting in [
        "Steps: 2",
        "Sampler: DPM++ 2M Karras",
        "CFG scale: 4.5",
        "Seed: 42",
        "Size: 32x32",
        "Model: tiny-sd1",
        "Clip skip: 2",
        "Lora strengths: \"style: 0.5\"",
        "Version: selma",
    ] {
        assert!(lines[3].contains(setting), "{setting} in {}", lines[3]);
    }
    // The LoRA is known by the hash of its tensors, as model sites know it.
    let file = bytes(lora);
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let hash: String = <sha2::Sha256 as sha2::Digest>::digest(&file[header..])
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert!(
        lines[3].contains(&format!("Lora hashes: \"style: {}\"", &hash[..12])),
        "{}",
        lines[3]
    );
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let dir = tempfile::tempdir().unwrap();
    let file = prompt_file(dir.path());
    for model in ["tiny-sd1", "tiny-sdxl"] {
        let results = ["1", "2", "3"].map(|size| {
            let out = dir.path().join(format!("{model}-{size}"));
            let mut command = draw_with(model, "4", &out);
            command.args(["--batch-size", size, "--scheduler", "euler-a"]);
            command.arg("--prompts").arg(&file).assert().success();
            drawn(&out).iter().map(|png| pixels(png)).collect::<Vec<_>>()
        });
        for other in &results[1..] {
            for (a, b) in results[0].iter().flatten().zip(other.iter().flatten()) {
                assert!(a.abs_diff(*b) <= 1, "{model}: {a} and {b}");
            }
        }
        assert!(results[0][0] != results[0][1]);
    }
}

#[test]
fn long_prompts_are_counted_and_read_whole_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let long = format!("{} and a very small boat", "a red house by the sea, ".repeat(12));
    std::fs::write(at("p.txt"), format!("a cat\n{long}\n")).unwrap();
    for model in ["tiny-sd1", "tiny-sdxl"] {
        let draw = |name: &str, options: &[&str]| {
            let mut command = selma();
            command
                .args(["generate", "--steps", "2", "--batch-size", "2"])
                .args(options);
            command.arg("--model").arg(parity(&format!("models/{model}")));
            command
                .arg("--vocab")
                .arg(parity("clip_vocab"))
                .arg("--prompts")
                .arg(at("p.txt"));
            let output = command.arg("--out").arg(at(name)).output().unwrap();
            assert!(output.status.success());
            (drawn(&at(name)), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (cut, warning) = draw("cut", &[]);
        assert!(
            warning.contains("1 of 2 prompts") && warning.contains("--long-prompts"),
            "{warning}"
        );
        let (whole, silence) = draw("whole", &["--long-prompts"]);
        assert!(!silence.contains("warning"), "{silence}");
        assert!(pixels(&cut[1]) != pixels(&whole[1]), "{model}");
        let apart = pixels(&cut[0]).into_iter().zip(pixels(&whole[0]));
        assert!(
            apart.into_iter().all(|(a, b)| a.abs_diff(b) <= 1),
            "{model}: a short prompt changed"
        );
        let (negative, _) = draw("negative", &["--long-prompts", "--negative", "rain"]);
        assert!(pixels(&negative[1]) != pixels(&whole[1]), "{model}");
    }
}

#[test]
fn another_vae_is_used_where_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let plain = one(generate(&out).args(["--prompt", "a cat"]), &out);
    let own = parity("models/tiny-sd1");
    let other = parity("models/tiny-sd2");
    for (path, same) in [
        (own.join("vae"), true),
        (own, true),
        (other.join("vae"), false),
        (other, false),
    ] {
        let now = one(generate(&out).args(["--prompt", "a cat", "--vae"]).arg(&path), &out);
        assert_eq!(now == plain, same, "{}", path.display());
    }
    refuses(
        generate(&out).args(["--prompt", "a", "--vae"]).arg(dir.path()),
        1,
        &["no VAE"],
    );
}

#[test]
fn a_picture_to_start_from_is_checked_and_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let shade = |x: u32, y: u32| image::Rgb([(x * 4) as u8, (y * 5) as u8, 90]);
    image::RgbImage::from_fn(60, 50, shade).save(at("init.png")).unwrap();
    let start = |strength: &str| {
        let mut command = draw_with("tiny-sd1", "4", &at("out"));
        command.args(["--prompt", "a cat", "--strength", strength, "--init-image"]);
        command.arg(at("init.png"));
        command
    };
    for strength in ["0", "-1", "1.5", "nan"] {
        refuses(&mut start(strength), 2, &["--strength"]);
    }
    refuses(&mut start("0.2"), 2, &["--strength 0.2", "4 steps"]);
    assert!(!at("out").exists());
    let weak = one(&mut start("0.25"), &at("out"));
    let strong = one(&mut start("1"), &at("out"));
    assert!(weak != strong);
    for scheduler in SCHEDULERS {
        let drawn = one(start("0.5").args(["--scheduler", scheduler]), &at("out"));
        assert_eq!(drawn.len(), 32 * 32 * 3);
    }
    let mut alone = generate(&at("out"));
    refuses(alone.args(["--prompt", "a", "--strength", "0.5"]), 2, &["--init-image"]);
    std::fs::write(at("init.png"), "no picture").unwrap();
    refuses(&mut start("0.5"), 1, &["init.png", "picture"]);
}

const SCHEDULERS: [&str; 9] = [
    "ddim",
    "pndm",
    "euler",
    "euler-a",
    "dpmpp-2m",
    "dpmpp-2m-karras",
    "unipc",
    "lcm",
    "ddpm",
];

#[test]
fn every_scheduler_of_the_contract_draws() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for model in ["tiny-sd1", "tiny-sd2"] {
        let draw = |scheduler: &str| {
            let mut command = draw_with(model, "5", dir.path());
            command.args(["--prompt", "a cat", "--scheduler", scheduler]);
            one(&mut command, dir.path())
        };
        // The ancestral step of Euler is that of DDPM in other variables, with the same noise.
        let (ddpm, ancestral) = (draw("ddpm"), draw("euler-a"));
        assert!(ddpm.iter().zip(&ancestral).all(|(a, b)| a.abs_diff(*b) <= 1));
        let others = SCHEDULERS.into_iter().filter(|&scheduler| scheduler != "ddpm");
        all.extend(others.map(draw));
    }
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "two schedulers drew the same");
    refuses(
        generate(dir.path()).args(["--prompt", "a", "--scheduler", "heun"]),
        2,
        &["heun", "euler-a", "dpmpp-2m-karras"],
    );
}

#[test]
fn options_out_of_range_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for options in [
        &["--steps", "0"][..],
        &["--steps", "99999999999"],
        &["--width", "33"],
        &["--height", "0"],
        &["--width", "18446744073709551608"],
        &["--guidance", "nan"],
        &["--guidance-rescale", "inf"],
        &["--clip-skip", "99"],
        &["--batch-size", "0"],
        &["--images-per-prompt", "0"],
        &["--precision", "int8"],
    ] {
        let mut command = selma();
        command.args(["generate", "--prompt", "a cat"]).args(options);
        command
            .arg("--model")
            .arg(parity("models/tiny-sd1"))
            .arg("--vocab")
            .arg(parity("clip_vocab"));
        refuses(command.arg("--out").arg(&out), 2, &[options[0]]);
        assert!(!out.exists(), "{options:?}");
    }
}

#[test]
fn a_model_of_the_hub_is_found_in_the_shared_cache() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("hub/models--org--tiny");
    std::fs::create_dir_all(root.join("snapshots")).unwrap();
    std::fs::create_dir_all(root.join("refs")).unwrap();
    std::fs::write(root.join("refs/main"), "c0ffee").unwrap();
    std::os::unix::fs::symlink(parity("models/tiny-sd1"), root.join("snapshots/c0ffee")).unwrap();
    let generate = |id: &str, out: &str| {
        let mut command = selma();
        command
            .env("HF_HOME", dir.path())
            .env_remove("HF_HUB_CACHE")
            .current_dir(dir.path());
        command.args([
            "generate",
            "--model",
            id,
            "--prompt",
            "a cat",
            "--steps",
            "1",
            "--offline",
            "--out",
            out,
        ]);
        command.arg("--vocab").arg(parity("clip_vocab"));
        command
    };
    generate("org/tiny", "pictures").assert().success();
    assert!(dir.path().join("pictures/00000.png").is_file());
    says(generate("org/other", "pictures"), 1, &["org/other", "--offline"]);
}
