//! Ranks and learning rates of single modules, and LoRA+.

use std::collections::BTreeMap;
use std::path::Path;

use selma::lora::LoraFactors;

use crate::{bytes, images, train};

fn layers(path: &Path) -> BTreeMap<String, LoraFactors> {
    let mut expert = selma::lora::load(path, None, false).unwrap().expert;
    expert.components.remove("unet").unwrap()
}

/// Plain gradient descent: an update is the learning rate times the gradient.
const SGD: [&str; 8] =
    ["--optimizer", "sgd", "--optimizer-args=momentum=0", "--max-grad-norm", "0", "--lr", "0.5", "--steps=1"];

#[test]
fn b_learns_at_a_multiple_of_the_rate_of_a() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let at = |name: &str| dir.path().join(name);
    let run = |name: &str, more: &[&str]| {
        train(&data, &at(name), &SGD).args(more).assert().success();
        layers(&at(name).join("lora.safetensors"))
    };
    let (plain, plus) = (run("plain", &[]), run("plus", &["--lora-plus-ratio", "16"]));
    for (module, layer) in &plus {
        // A power of two: the products are exact. A's first gradient is zero, because B is.
        let expected: Vec<f32> = plain[module].b.data::<f32>().iter().map(|x| 16.0 * x).collect();
        assert_eq!(layer.b.data::<f32>(), expected, "{module}");
        assert_eq!(layer.a.data::<f32>(), plain[module].a.data::<f32>(), "{module}");
        assert!(expected.iter().any(|x| *x != 0.0));
    }
    // Two groups, whose moments are resumed to the byte.
    let settings = ["--steps", "4", "--save-every", "2", "--loraplus-lr-ratio", "16", "--ema", "0.5"];
    for (optimizer, precision) in [("adamw", "f32"), ("adamw8bit", "f16"), ("schedule-free", "f32")] {
        let settings =
            [&settings[..if optimizer == "schedule-free" { 6 } else { 8 }], &["--optimizer", optimizer]].concat();
        let (whole, broken) = (at(&format!("{optimizer}-whole")), at(&format!("{optimizer}-broken")));
        for out in [&whole, &broken] {
            train(&data, out, &settings).args(["--precision", precision]).assert().success();
        }
        std::fs::remove_file(broken.join("state/step-00000004.safetensors")).unwrap();
        train(&data, &broken, &settings).args(["--precision", precision, "--resume"]).assert().success();
        for file in ["lora.safetensors", "metrics.jsonl", "state/step-00000004.safetensors"] {
            assert!(bytes(whole.join(file)) == bytes(broken.join(file)), "{optimizer}: {file} differs");
        }
    }
}

#[test]
fn rules_give_modules_their_rank_and_rate() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let at = |name: &str| dir.path().join(name);
    let run = |name: &str, more: &[&str]| {
        train(&data, &at(name), &SGD).args(more).assert().success();
        layers(&at(name).join("lora.safetensors"))
    };
    let plain = run("plain", &[]);
    let ranks =
        run("ranks", &["--block-rank", "up_blocks=3,up_blocks.*.attentions.1=1", "--block-rank", "mid_block=0"]);
    assert!(!ranks.keys().any(|module| module.starts_with("mid_block")));
    assert!(plain.keys().any(|module| module.starts_with("mid_block")));
    for (module, layer) in &ranks {
        let expected = match module {
            _ if module.starts_with("up_blocks") && module.contains("attentions.1.") => 1,
            _ if module.starts_with("up_blocks") => 3,
            _ => 2,
        };
        assert_eq!(layer.rank(), expected, "{module}");
        // Alpha follows the rank.
        assert_eq!(layer.scale(), 1.0, "{module}");
    }
    let rates =
        run("rates", &["--block-lr", "attn2=x0.5", "--block-lr", "mid_block=0", "--block-lr", "up_blocks=0.125"]);
    for (module, layer) in &rates {
        let factor = match module {
            _ if module.starts_with("up_blocks") => 0.25,
            _ if module.starts_with("mid_block") => 0.0,
            _ if module.contains("attn2") => 0.5,
            _ => 1.0,
        };
        let expected: Vec<f32> = plain[module].b.data::<f32>().iter().map(|x| factor * x).collect();
        assert_eq!(layer.b.data::<f32>(), expected, "{module}");
    }
    let refused = |arguments: &[&str], message: &str| {
        let output = train(&data, &at("out"), arguments).assert().code(2);
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(said.contains(message), "{said}");
    };
    refused(&["--block-rank", "mid_blok=4"], "no module that is trained has `mid_blok`");
    refused(&["--block-rank", "mid_block"], "expected PATTERN=VALUE");
    refused(&["--block-rank", "mid_block=x2"], "expected a rank");
    refused(&["--block-lr", "mid_block=-1"], "expected a learning rate");
    refused(&["--block-rank", "unet=0"], "nothing to train");
    refused(&["--optimizer", "prodigy", "--lora-plus-ratio", "16"], "Prodigy estimates one learning rate");
}
