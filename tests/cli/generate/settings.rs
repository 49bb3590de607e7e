//! Settings that decide an image, and how it tells of them.

use selma::formats::png;

use super::{draw_with, generate, one, refuses};
use crate::{bytes, parity, selma};

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
fn images_say_how_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let (out, lora) = (dir.path().join("out"), dir.path().join("style.safetensors"));
    std::fs::copy(parity("cases/sample_sd1_lora/lora.safetensors"), &lora).unwrap();
    let mut command = generate(&out);
    command.args(["--prompt", "a cat, très 中\nin two lines", "--negative", "a dog", "--clip-skip", "1"]);
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
    let hash: String =
        <sha2::Sha256 as sha2::Digest>::digest(&file[header..]).iter().map(|b| format!("{b:02x}")).collect();
    assert!(lines[3].contains(&format!("Lora hashes: \"style: {}\"", &hash[..12])), "{}", lines[3]);
}

#[test]
fn a_image_to_start_from_is_checked_and_followed() {
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
    std::fs::write(at("init.png"), "no image").unwrap();
    refuses(&mut start("0.5"), 1, &["init.png", "image"]);
}

const SCHEDULERS: [&str; 20] = [
    "ddim",
    "pndm",
    "euler",
    "euler-a",
    "heun",
    "dpm2",
    "dpm2-a",
    "dpmpp-2m",
    "dpmpp-2m-karras",
    "dpmpp-2m-exponential",
    "dpmpp-2m-sde",
    "DPM++ SDE",
    "DPM++ SDE Karras",
    "dpmpp-2s",
    "lms",
    "deis",
    "unipc",
    "lcm",
    "tcd",
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
        generate(dir.path()).args(["--overwrite", "--prompt", "a", "--scheduler", "dpm-fast"]),
        2,
        &["dpm-fast", "euler-a", "dpmpp-2m-sde", "-karras"],
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
        command.arg("--model").arg(parity("models/tiny-sd1")).arg("--vocab").arg(parity("clip_vocab"));
        refuses(command.arg("--out").arg(&out), 2, &[options[0]]);
        assert!(!out.exists(), "{options:?}");
    }
}
