//! What `selma train` refuses, and how it says so.

use crate::train::train;
use crate::{images, parity, says, selma};

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    let mut targets = train("tiny-sd1", &data, &out);
    targets.args(["--steps", "1", "--targets", "to_z"]);
    says(targets, 2, &["to_z"]);
    let mut nan = train("tiny-sd1", &data, &out);
    nan.args(["--steps", "1", "--lr", "nan"]);
    says(nan, 2, &["lr"]);
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    says(train("tiny-sd1", &data, &file.join("out")), 1, &["file"]);
    says(train("tiny-sd1", &data, &file), 1, &["file: is a file", "--out"]);
    // A command that cannot work leaves no folder behind.
    let fresh = dir.path().join("fresh");
    says(train("tiny-sd1", &dir.path().join("nowhere"), &fresh), 1, &["nowhere: does not exist"]);
    says(train("tiny-sd1", &file, &fresh), 1, &["file: is a file", "images"]);
    assert!(!fresh.exists());
    let mut nothing = selma();
    nothing.arg("train");
    says(nothing, 2, &["missing: --model, --data, --out"]);
    let mut negative = train("tiny-sd1", &data, &fresh);
    negative.args(["--lr", "-1"]);
    says(negative, 2, &["lr is -1, expected a number above 0"]);
    let mut vocabulary = selma();
    vocabulary.args(["train", "--rank", "1", "--model"]);
    vocabulary.arg(parity("models/tiny-sd1")).arg("--data").arg(&data);
    vocabulary.arg("--out").arg(dir.path().join("vocabulary"));
    says(vocabulary, 1, &["vocab.json: no such file", "--vocab"]);
    std::fs::write(data.join("3.png"), b"not an image").unwrap();
    let mut image = train("tiny-sd1", &data, &dir.path().join("broken"));
    image.args(["--steps", "4"]);
    says(image, 1, &["3.png"]);
    says(train("tiny-sd9", &data, &out), 1, &["tiny-sd9"]);
}

#[test]
fn options_that_do_not_exist_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let refused = |arguments: &[&str], words: &[&str]| {
        let mut command = train("tiny-sd1", &data, &dir.path().join("out"));
        command.args(arguments);
        says(command, 2, words);
    };
    refused(&["--betas", "0.9"], &["--betas", "0.9,0.999"]);
    refused(&["--betas", "0.9,1.5"], &["betas"]);
    refused(&["--eps", "0"], &["eps"]);
    refused(&["--crop", "left"], &["--crop", "random, center"]);
    refused(&["--prediction", "x0"], &["v_prediction"]);
    refused(&["--preset", "selma-sd3"], &["selma-sdxl"]);
    refused(&["--optimizer", "lamb"], &["lamb", "adamw, adamw8bit", "prodigy"]);
    refused(&["--lora-order", "sideways"], &["auto, factored, merged"]);
}
