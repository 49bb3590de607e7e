//! Learned tokens and gates on a tiny model of each family, in diffusers' layout.

use std::path::Path;

use selma::formats::safetensors::Safetensors;
use selma::shapes::Skill;

use crate::{photos, run};

fn parity(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(path).display().to_string()
}

#[test]
fn tokens_and_gates_work_on_every_family() {
    let vocab = parity("clip_vocab");
    for (family, keys) in [("tiny-sd1", &["<x>"][..]), ("tiny-sd2", &["<x>"]), ("tiny-sdxl", &["clip_g", "clip_l"])] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        photos(dir, "photos", Skill::Everyday, 2);
        for name in ["000.txt", "001.txt"] {
            std::fs::write(dir.join("photos").join(name), "a photo of a <x>").unwrap();
        }
        let model = parity(&format!("models/{family}"));
        let common = ["--model", &model, "--vocab", &vocab, "--data", "photos"];
        for seed in ["1", "2"] {
            let train =
                ["train", "--class-token", "<x>", "--with-lora", "--init-word", "photo", "--rank", "2", "--steps", "2"];
            let more = ["--batch-size", "2", "--grad-accum", "1", "--lr", "1e-2", "--seed", seed, "--out", seed];
            run(dir, &[&train[..], &common, &more].concat());
            std::fs::copy(dir.join(seed).join("lora.safetensors"), dir.join(format!("{seed}.safetensors"))).unwrap();
        }
        // Written as <x>.safetensors, as a user would rename it: SDXL's file is known by its name.
        std::fs::copy(dir.join("1/learned_embeds.safetensors"), dir.join("<x>.safetensors")).unwrap();
        let file = Safetensors::open(&dir.join("<x>.safetensors")).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), keys, "{family}");
        let loras = ["--lora", "1.safetensors", "--lora", "2.safetensors"];
        let gate = ["merge", "--gate", "--steps", "1", "--batch-size", "2", "--per-layer", "--out", "gate.safetensors"];
        run(dir, &[&gate[..], &common, &loras].concat());
        let draw = ["generate", "--model", &model, "--vocab", &vocab, "--prompt", "a <x> on grass", "--steps", "2"];
        let drawn = |out: &'static str, more: &[&'static str]| {
            run(dir, &[&draw[..], &["--out", out], more].concat());
            crate::pixels(&dir.join(out)).remove(0)
        };
        let plain = drawn("plain", &[]);
        let learned = drawn("learned", &["--embedding", "<x>.safetensors"]);
        let gated = drawn("gated", &["--embedding", "<x>.safetensors", "--gate", "gate.safetensors"]);
        assert!(plain != learned && learned != gated, "{family}");
    }
}
