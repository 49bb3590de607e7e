//! Losses, noise, masks and held-out images.

use std::path::Path;

use image::{Rgba, RgbaImage};

use crate::{bytes, deltas, images, said, train};

/// Three images whose right half is transparent, over `hidden`.
fn transparent(dir: &Path, name: &str, hidden: u8) -> std::path::PathBuf {
    let data = dir.join(name);
    std::fs::create_dir(&data).unwrap();
    for i in 0..3u32 {
        let pixel = |x: u32, y: u32| match x < 20 {
            true => Rgba([(x * 9 + i * 40) as u8, (y * 5) as u8, 90, 255]),
            false => Rgba([hidden, hidden, 255 - hidden, 0]),
        };
        RgbaImage::from_fn(40, 40, pixel).save(data.join(format!("{i}.png"))).unwrap();
        std::fs::write(data.join(format!("{i}.txt")), format!("image number {i}")).unwrap();
    }
    data
}

#[test]
fn losses_and_noise_are_those_that_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let mut results = Vec::new();
    for (i, more) in [
        &[][..],
        &["--loss_type", "huber"],
        &["--loss_type=smooth-l1"],
        &["--loss_type", "huber", "--huber_schedule", "constant"],
        &["--multires_noise_iterations", "6"],
        &["--ip_noise_gamma", "0.1"],
        &["--noise_offset", "0.1"],
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(i.to_string());
        train(&data, &out, &["--steps", "3", "--lr", "0.01"]).args(more).assert().success();
        let result = bytes(out.join("metrics.jsonl"));
        assert!(!results.contains(&result), "{more:?} trains as another setting does");
        results.push(result);
    }
}

#[test]
fn hidden_colours_are_filled_or_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (dark, bright) = (transparent(dir.path(), "dark", 10), transparent(dir.path(), "bright", 240));
    let of = |data: &Path, name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let mut command = train(data, &out, &["--steps", "3", "--lr", "0.01", "--crop", "center"]);
        command.args(more);
        (said(command), deltas(&out.join("lora.safetensors")))
    };
    let (notes, plain) = of(&dark, "plain-dark", &[]);
    assert!(notes.contains("3 of 3 images have an alpha channel") && notes.contains("--alpha-background"), "{notes}");
    assert_ne!(plain, of(&bright, "plain-bright", &[]).1);
    let white = ["--alpha-background", "white"];
    let (notes, filled) = of(&dark, "white-dark", &white);
    assert!(!notes.contains("alpha channel"), "{notes}");
    assert_eq!(filled, of(&bright, "white-bright", &white).1);
    assert_ne!(filled, of(&bright, "colour", &["--alpha-background", "#ff0000"]).1);
    let (_, masked) = of(&dark, "masked", &["--masked-loss"]);
    assert_ne!(masked, plain);
    let mut wrong = train(&dark, &dir.path().join("wrong"), &["--alpha-background", "mauve"]);
    assert!(String::from_utf8_lossy(&wrong.assert().code(2).get_output().stderr).contains("#80a0ff"));
}

#[test]
fn masks_say_where_images_are_learnt_from() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let masks = dir.path().join("masks");
    std::fs::create_dir(&masks).unwrap();
    let paint = |shade: &dyn Fn(u32) -> u8| {
        for i in 0..3u32 {
            let (w, h) = (40 + i * 7, 50 - i * 3);
            let pixel = |x: u32, _| image::Luma([shade(x * 2 / w)]);
            image::GrayImage::from_fn(w, h, pixel).save(masks.join(format!("{i}.png"))).unwrap();
        }
    };
    let run = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let mut command = train(&data, &out, &["--steps", "3", "--lr", "0.01"]);
        command.args(more).assert().success();
        deltas(&out.join("lora.safetensors"))
    };
    let masks_option = masks.display().to_string();
    let masked = ["--mask-data", masks_option.as_str()];
    let plain = run("plain", &[]);
    paint(&|_| 255);
    let white = run("white", &masked);
    let size = |deltas: &[(String, Vec<f32>)]| {
        deltas.iter().flat_map(|(_, delta)| delta).fold(0.0_f32, |most, x| most.max(x.abs()))
    };
    for ((module, a), (_, b)) in white.iter().zip(&plain) {
        let off = a.iter().zip(b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        // The same sum in another order of f32; AdamW's first steps are of one size whatever the gradient's is.
        assert!(off <= 0.02 * size(&plain), "{module}: {off} of {}", size(&plain));
    }
    paint(&|half| if half == 0 { 255 } else { 0 });
    assert_ne!(run("half", &masked), white);
    paint(&|_| 0);
    assert_eq!(size(&run("black", &masked)), 0.0);
    let fails = |name: &str, words: &[&str]| {
        let mut command = train(&data, &dir.path().join(name), &["--steps", "1"]);
        let output = command.args(masked).assert().failure();
        let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    image::GrayImage::new(40, 30).save(masks.join("1.png")).unwrap();
    fails("shape", &["1.png", "40x30", "proportions"]);
    paint(&|_| 0);
    std::fs::remove_file(masks.join("2.png")).unwrap();
    fails("missing", &["2.png", "has no mask"]);
}

#[test]
fn held_out_images_are_measured_at_the_same_noise() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let at = |name: &str| dir.path().join(name);
    let split = ["--steps", "4", "--save-every", "2", "--validation-split", "0.34"];
    let read = |name: &str| -> Vec<(u64, f64)> {
        let text = String::from_utf8(bytes(at(name).join("validation.jsonl"))).unwrap();
        let record = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            (value["step"].as_u64().unwrap(), value["loss"].as_f64().unwrap())
        };
        text.lines().map(record).collect()
    };
    let mut still = train(&data, &at("still"), &split);
    still.args(["--lr", "1e-30"]);
    let notes = said(still);
    assert!(notes.contains("1 images are held out") && notes.contains("on 2 images"), "{notes}");
    let records = read("still");
    assert_eq!(records.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 2, 4]);
    assert!(records.iter().all(|(_, loss)| (loss - records[0].1).abs() <= 1e-6 * loss), "{records:?}");

    train(&data, &at("whole"), &split).args(["--lr", "0.01"]).assert().success();
    assert_ne!(read("whole")[2].1, read("whole")[0].1);
    train(&data, &at("broken"), &split).args(["--lr", "0.01"]).assert().success();
    std::fs::remove_file(at("broken").join("state/step-00000004.safetensors")).unwrap();
    train(&data, &at("broken"), &split).args(["--lr", "0.01", "--resume"]).assert().success();
    for file in ["lora.safetensors", "metrics.jsonl", "validation.jsonl"] {
        assert!(bytes(at("whole").join(file)) == bytes(at("broken").join(file)), "{file}");
    }
    // A folder of its own: nothing is taken from the data.
    let mut other = train(&data, &at("other"), &["--steps", "2", "--validation-data", &data.display().to_string()]);
    other.args(["--validate-every", "1"]);
    assert!(said(other).contains("3 images are held out"));
    assert_eq!(read("other").len(), 3);
    let mut all = train(&data, &at("all"), &["--validation-split", "0.9"]);
    assert!(String::from_utf8_lossy(&all.assert().code(2).get_output().stderr).contains("leaves none"));
}
