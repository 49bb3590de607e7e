//! Files of prompts: their forms, their batches, going on, and prompts that are too long.

use std::path::Path;

use super::{PROMPTS, draw_with, generate, pixels, prompt_file, refuses};
use crate::{bytes, drawn, parity, selma};

#[test]
fn a_resumed_run_gives_the_bytes_of_an_unbroken_one() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let run = |out: &Path| {
        let mut command = generate(out);
        // Six images in batches of four and two; a stochastic sampler.
        command.arg("--prompts").arg(prompt_file(dir.path()));
        command.args(["--images-per-prompt", "2", "--batch-size", "4", "--scheduler", "euler-a"]);
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
    // What another command made is not replaced unasked.
    refuses(run(&broken).arg("--resume"), 1, &["00005.png", "settings", "--overwrite"]);
    let output = run(&broken).args(["--resume", "--overwrite"]).assert().success();
    assert_eq!(before, [0, 1, 2, 3].map(written));
    assert_eq!(drawn(&whole), drawn(&broken));
    assert_eq!(bytes(whole.join("metadata.jsonl")), bytes(broken.join("metadata.jsonl")));
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
fn prompt_files_in_every_form_draw_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<&str> = PROMPTS.lines().filter(|line| !line.is_empty()).collect();
    let rows: Vec<serde_json::Value> = (lines.iter().enumerate())
        .map(|(i, line)| serde_json::json!({"prompt": line, "id": i, "file_name": "x"}))
        .collect();
    let (json, jsonl) = (dir.path().join("p.json"), dir.path().join("p.jsonl"));
    std::fs::write(&json, serde_json::Value::from(rows.clone()).to_string()).unwrap();
    std::fs::write(&jsonl, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let results = [prompt_file(dir.path()), json, jsonl].map(|file| {
        let out = file.with_extension("out");
        generate(&out).arg("--overwrite").arg("--prompts").arg(&file).assert().success();
        let metadata = String::from_utf8(bytes(out.join("metadata.jsonl"))).unwrap();
        (drawn(&out), metadata)
    });
    assert_eq!(results[0].0.len(), 3);
    assert!(results[0].0 == results[1].0 && results[0].0 == results[2].0);
    assert_eq!(results[1].1, results[2].1);
    let row: serde_json::Value = serde_json::from_str(results[1].1.lines().nth(1).unwrap()).unwrap();
    // What the record says besides is kept; what the run decides is the run's.
    let used = serde_json::json!({
        "file_name": "00001.png", "text": "two dogs", "seed": 42, "index": 1, "steps": 2, "guidance": 7.5,
        "width": 32, "height": 32, "scheduler": "PNDMScheduler", "id": 1,
    });
    assert_eq!(row, used);
    // The result serves as a prompt file itself, and as training data: its rows have all settings.
    let again = dir.path().join("again");
    let metadata = dir.path().join("p.out/metadata.jsonl");
    draw_with("tiny-sd1", "3", &again).arg("--prompts").arg(metadata).assert().success();
    assert_eq!(drawn(&again), results[0].0);
}

#[test]
fn a_image_does_not_depend_on_its_batch() {
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
            command.args(["generate", "--steps", "2", "--batch-size", "2", "--overwrite"]).args(options);
            command.arg("--model").arg(parity(&format!("models/{model}")));
            command.arg("--vocab").arg(parity("clip_vocab")).arg("--prompts").arg(at("p.txt"));
            let output = command.arg("--out").arg(at(name)).output().unwrap();
            assert!(output.status.success());
            (drawn(&at(name)), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (cut, warning) = draw("cut", &[]);
        assert!(warning.contains("1 of 2 prompts") && warning.contains("--long-prompts"), "{warning}");
        let (whole, silence) = draw("whole", &["--long-prompts"]);
        assert!(!silence.contains("warning"), "{silence}");
        assert!(pixels(&cut[1]) != pixels(&whole[1]), "{model}");
        let apart = pixels(&cut[0]).into_iter().zip(pixels(&whole[0]));
        assert!(apart.into_iter().all(|(a, b)| a.abs_diff(b) <= 1), "{model}: a short prompt changed");
        let (negative, _) = draw("negative", &["--long-prompts", "--negative", "rain"]);
        assert!(pixels(&negative[1]) != pixels(&whole[1]), "{model}");
    }
}
