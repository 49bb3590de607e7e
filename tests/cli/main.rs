//! The commands as a user types them, on the small recorded models and on pictures drawn here.

use std::path::{Path, PathBuf};

use assert_cmd::Command;

fn selma() -> Command {
    Command::cargo_bin("selma").unwrap()
}

fn parity(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/parity")
        .join(path)
}

/// Five pictures of different sizes with captions beside them.
fn pictures(dir: &Path) -> PathBuf {
    let data = dir.join("pictures");
    std::fs::create_dir(&data).unwrap();
    for i in 0..5u32 {
        let shade = |x: u32, y: u32| image::Rgb([(x * 5 + i * 40) as u8, (y * 4) as u8, (i * 50) as u8]);
        let picture = image::RgbImage::from_fn(40 + i * 7, 50 - i * 3, shade);
        picture.save(data.join(format!("{i}.png"))).unwrap();
        std::fs::write(data.join(format!("{i}.txt")), format!("picture number {i}")).unwrap();
    }
    data
}

fn train(model: &str, data: &Path, out: &Path) -> Command {
    let mut command = selma();
    command.args([
        "train",
        "--rank",
        "4",
        "--train_batch_size",
        "2",
        "--grad-accum",
        "2",
        "--quiet",
    ]);
    command
        .arg("--model")
        .arg(parity(&format!("models/{model}")))
        .arg("--vocab")
        .arg(parity("clip_vocab"));
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

fn bytes(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_resumed_training_gives_the_bytes_of_an_unbroken_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures(dir.path());
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    train("tiny-sd1", &data, &whole)
        .args(["--steps", "6", "--save-every", "2"])
        .assert()
        .success();
    train("tiny-sd1", &data, &broken)
        .args(["--steps", "6", "--save-every", "2"])
        .assert()
        .success();
    // As after a kill between the states of steps 2 and 4: only the older state is there, metrics go further.
    for step in [4, 6] {
        std::fs::remove_file(broken.join(format!("state/step-{step:08}.safetensors"))).unwrap();
    }
    std::fs::remove_file(broken.join("lora.safetensors")).unwrap();
    let again = train("tiny-sd1", &data, &broken)
        .args(["--steps", "6", "--save-every", "2"])
        .assert()
        .code(1);
    assert!(String::from_utf8_lossy(&again.get_output().stderr).contains("--resume"));
    train("tiny-sd1", &data, &broken)
        .args(["--steps", "6", "--save-every", "2", "--resume"])
        .assert()
        .success();
    for file in ["lora.safetensors", "metrics.jsonl", "state/step-00000006.safetensors"] {
        assert!(bytes(whole.join(file)) == bytes(broken.join(file)), "{file} differs");
    }
    assert_eq!(
        String::from_utf8(bytes(whole.join("metrics.jsonl")))
            .unwrap()
            .lines()
            .count(),
        6
    );
}

#[test]
fn every_family_trains_and_its_lora_changes_the_picture() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures(dir.path());
    for model in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"] {
        let out = dir.path().join(model);
        train(model, &data, &out)
            .args(["--steps", "2", "--lr", "0.05"])
            .assert()
            .success();
        let draw = |name: &str, lora: bool| {
            let folder = out.join(name);
            let mut command = selma();
            command.args(["generate", "--prompt", "a cat", "--steps", "2", "--quiet"]);
            command
                .arg("--model")
                .arg(parity(&format!("models/{model}")))
                .arg("--vocab")
                .arg(parity("clip_vocab"));
            if lora {
                command
                    .arg("--lora")
                    .arg(format!("{}:0.8", out.join("lora.safetensors").display()));
            }
            command.arg("--out").arg(&folder).assert().success();
            bytes(folder.join("00000.png"))
        };
        let plain = draw("plain", false);
        assert!(
            plain == draw("again", false),
            "{model}: the same command drew another picture"
        );
        assert!(plain != draw("lora", true), "{model}: the LoRA changed nothing");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures(dir.path());
    let out = dir.path().join("out");
    let says = |mut command: Command, code: i32, words: &[&str]| {
        let output = command.assert().code(code);
        let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
    };
    let mut targets = train("tiny-sd1", &data, &out);
    targets.args(["--steps", "1", "--targets", "to_z"]);
    says(targets, 2, &["to_z"]);
    let mut nan = train("tiny-sd1", &data, &out);
    nan.args(["--steps", "1", "--lr", "nan"]);
    says(nan, 2, &["lr"]);
    std::fs::write(data.join("3.png"), b"not a picture").unwrap();
    let mut picture = train("tiny-sd1", &data, &dir.path().join("broken"));
    picture.args(["--steps", "4"]);
    says(picture, 1, &["3.png"]);
    says(train("tiny-sd9", &data, &out), 1, &["tiny-sd9"]);
    std::fs::write(dir.path().join("file"), b"").unwrap();
    says(train("tiny-sd1", &data, &dir.path().join("file/out")), 1, &["file"]);
}
