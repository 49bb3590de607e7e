//! `selma merge --gate`, and `selma generate --gate`.

use std::collections::BTreeMap;
use std::path::Path;

use selma::lora::gate::{Gate, GateFile, Gates, Origin};
use selma::lora::{self, save};
use selma::shapes::Skill;

use crate::{bytes, killed, photos, pixels, run, says};

const FEW: [&str; 10] = ["--rank", "2", "--steps", "3", "--batch-size", "1", "--grad-accum", "1", "--lr", "1e-2"];

/// Two experts, `a.safetensors` and `b.safetensors`, and their images in `photos`.
fn experts(dir: &Path) {
    photos(dir, "photos", Skill::ALL[0], 4);
    for (name, seed) in [("a", "1"), ("b", "2")] {
        let train = ["train", "--model", "shapes", "--data", "photos", "--out", name, "--seed", seed];
        run(dir, &[&train[..], &FEW[..]].concat());
        std::fs::copy(dir.join(name).join("lora.safetensors"), dir.join(format!("{name}.safetensors"))).unwrap();
    }
}

const EXPERTS: [&str; 4] = ["--lora", "a.safetensors", "--lora", "b.safetensors"];
const TRAIN: [&str; 6] = ["merge", "--gate", "--model", "shapes", "--data", "photos"];

fn draw(dir: &Path, out: &str, more: &[&str]) -> Vec<Vec<u8>> {
    let command = ["generate", "--model", "shapes", "--prompts", "prompts.txt", "--steps", "2", "--batch-size", "2"];
    run(dir, &[&command[..], &["--out", out], more].concat());
    pixels(&dir.join(out))
}

#[test]
fn a_gate_of_zeros_is_the_uniform_merge() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    experts(dir);
    std::fs::write(dir.join("prompts.txt"), "a red circle\ntwo blue squares\na star above a green heart\n").unwrap();
    run(dir, &[&["merge"][..], &EXPERTS[..], &["--model", "shapes", "--out", "uniform.safetensors"]].concat());
    let origins = ["a.safetensors", "b.safetensors"].map(|name| Origin::of(&dir.join(name)).unwrap()).to_vec();
    let file = |gate: Gate, name: &str| {
        let file = GateFile { experts: origins.clone(), gates: Gates::Shared(gate) };
        file.write(&dir.join(name), &BTreeMap::new()).unwrap();
    };
    file(Gate::uniform(2, 64), "zeros.safetensors");
    let uniform = draw(dir, "uniform", &["--lora", "uniform.safetensors"]);
    assert_eq!(draw(dir, "zeros", &["--gate", "zeros.safetensors"]), uniform);
    // So it is wherever one draws.
    let chat = |out: &'static str, more: &[&'static str]| {
        let command = ["chat", "--model", "shapes", "--steps", "2", "--replay", "replies.jsonl", "--out", out];
        run(dir, &[&command[..], more].concat());
        pixels(&dir.join(out))
    };
    let said = r#"{"role": "assistant", "turn": 1, "raw": "<image>a red circle</image>", "shown": "", "errors": []}"#;
    let asked = r#"{"role": "user", "turn": 1, "text": "go on"}"#;
    std::fs::write(dir.join("replies.jsonl"), format!("{asked}\n{said}\n")).unwrap();
    let talked = chat("talked", &["--lora", "uniform.safetensors"]);
    assert_eq!(chat("gated-talk", &["--gate", "zeros.safetensors"]), talked);
    assert_ne!(chat("plain-talk", &[]), talked);
    std::fs::create_dir_all(dir.join("classes/one")).unwrap();
    std::fs::copy(dir.join("photos/000.png"), dir.join("classes/one/000.png")).unwrap();
    let mix = |out: &'static str, more: &[&'static str]| {
        let command =
            ["mix", "generate", "--model", "shapes", "--data", "classes", "--steps", "2", "--strengths", "0.5"];
        run(dir, &[&command[..], &["--out", out], more].concat());
        pixels(&dir.join(out).join("data/one"))
    };
    let mixed = mix("mixed", &["--lora", "uniform.safetensors"]);
    assert_eq!(mix("gated-mix", &["--gate", "zeros.safetensors"]), mixed);
    assert_ne!(mix("plain-mix", &[]), mixed);
    // Shares that follow the text: another image for each prompt, and the same in another batch.
    let rows: Vec<f32> =
        (0..130).map(|i| if i % 2 == 0 { 0.5 } else { -0.4 } * if i < 65 { 1.0 } else { -1.0 }).collect();
    file(Gate::from_rows(&rows, 2, 64), "steep.safetensors");
    let steep = draw(dir, "steep", &[&["--gate", "steep.safetensors"][..], &EXPERTS[..]].concat());
    assert!(steep.iter().zip(&uniform).all(|(a, b)| a != b));
    // A gate that takes one expert alone is that expert.
    let mut rows = vec![0.0; 130];
    (rows[64], rows[129]) = (200.0, -200.0);
    file(Gate::from_rows(&rows, 2, 64), "first.safetensors");
    let alone = draw(dir, "alone", &["--lora", "a.safetensors"]);
    let first = draw(dir, "first", &["--gate", "first.safetensors"]);
    let far = alone.concat().iter().zip(first.concat()).map(|(a, b)| a.abs_diff(b)).max().unwrap();
    assert!(far <= 1, "images differ by {far} levels: factors are split otherwise, and nothing else");
    // Another expert, another order, one too few, a strength.
    let generate =
        ["generate", "--model", "shapes", "--prompt", "a circle", "--out", "no", "--gate", "zeros.safetensors"];
    let with = |loras: &[&'static str]| [&generate[..], loras].concat();
    let swapped = with(&["--lora", "b.safetensors", "--lora", "a.safetensors"]);
    says(dir, &swapped, 1, &["zeros.safetensors", "expert 1 is a.safetensors", "b.safetensors is another file"]);
    says(
        dir,
        &with(&["--lora", "a.safetensors"]),
        1,
        &["2 experts", "1 LoRAs are given", "a.safetensors, b.safetensors"],
    );
    let scaled = with(&["--lora", "a.safetensors:0.5", "--lora", "b.safetensors"]);
    says(dir, &scaled, 2, &["a.safetensors", "give no strength"]);
    says(
        dir,
        &[&generate[..7], &["--gate", "a.safetensors"]].concat(),
        1,
        &["no list of experts", "selma merge --gate"],
    );
    std::fs::rename(dir.join("b.safetensors"), dir.join("c.safetensors")).unwrap();
    says(dir, &generate, 1, &["b.safetensors", "no such file", "--lora"]);
}

#[test]
fn a_gate_learns_to_leave_a_harmful_expert_and_goes_on_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    experts(dir);
    let harmful = lora::load(&dir.join("b.safetensors"), None, false).unwrap().expert.scaled(60.0);
    save::write(save::Layout::Diffusers, &dir.join("b.safetensors"), &harmful, None, &BTreeMap::new()).unwrap();
    let before = ["a.safetensors", "b.safetensors"].map(|name| bytes(&dir.join(name)));
    let few = ["--steps", "30", "--batch-size", "2", "--lr", "0.02"];
    let train = |out: &'static str| [&TRAIN[..], &EXPERTS[..], &few[..], &["--out", out]].concat();
    let report: serde_json::Value =
        serde_json::from_str(run(dir, &[&train("gate.safetensors")[..], &["--json"]].concat()).lines().last().unwrap())
            .unwrap();
    let shares: Vec<f64> = serde_json::from_value(report["shares"].clone()).unwrap();
    assert!(shares[1] < 0.3, "the harmful expert keeps {}", shares[1]);
    assert!((shares[0] + shares[1] - 1.0).abs() < 1e-9 && report["balance"].as_f64().unwrap() > 0.1, "{report}");
    assert_eq!(before, ["a.safetensors", "b.safetensors"].map(|name| bytes(&dir.join(name))), "experts are frozen");
    assert!(!dir.join("gate.safetensors.training").exists());
    let GateFile { experts, gates } = GateFile::read(&dir.join("gate.safetensors")).unwrap();
    assert!(experts[1].file == "b.safetensors" && matches!(gates, Gates::Shared(_)));

    killed(dir, &train("again.safetensors"), "\"step\":27,");
    let again = train("again.safetensors");
    says(dir, &again, 1, &["again.safetensors.training", "--resume"]);
    let other = [&again[..], &["--resume", "--balance", "0.5"]].concat();
    says(dir, &other, 1, &["began with other settings"]);
    run(dir, &[&again[..], &["--resume"]].concat());
    assert_eq!(bytes(&dir.join("again.safetensors")), bytes(&dir.join("gate.safetensors")));

    // A strong balance term keeps both in use.
    let strong = ["--lr", "0.005", "--balance", "100", "--out", "even.safetensors", "--json"];
    let balanced = [&TRAIN[..], &EXPERTS[..], &few[..4], &strong].concat();
    let report: serde_json::Value = serde_json::from_str(run(dir, &balanced).lines().last().unwrap()).unwrap();
    assert!(report["balance"].as_f64().unwrap() < 0.05, "{report}");
}

#[test]
fn a_gate_for_each_layer_is_trained_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    experts(dir);
    let few = ["--per-layer", "--steps", "1", "--batch-size", "2", "--lr", "0.05", "--out", "layers.safetensors"];
    run(dir, &[&TRAIN[..], &EXPERTS[..], &few[..]].concat());
    let Gates::Layers(gates) = GateFile::read(&dir.join("layers.safetensors")).unwrap().gates else { panic!("shared") };
    let layers = lora::load(&dir.join("a.safetensors"), None, false).unwrap().expert.len();
    assert_eq!(gates.len(), layers);
    assert!(gates.values().all(|gate| (gate.experts(), gate.width()) == (2, 64)));
    std::fs::write(dir.join("prompts.txt"), "a red circle\n").unwrap();
    assert_eq!(draw(dir, "drawn", &["--gate", "layers.safetensors"]).len(), 1);
    let command = |more: &[&'static str]| [&TRAIN[..], more].concat();
    says(dir, &command(&["--lora", "a.safetensors", "--out", "x"]), 2, &["two LoRAs or more"]);
    let weighed = command(&["--lora", "a.safetensors:2", "--lora", "b.safetensors", "--out", "x"]);
    says(dir, &weighed, 2, &["a.safetensors", "finds the weights itself"]);
    says(dir, &[&["merge", "--gate", "--out", "x"][..], &EXPERTS[..]].concat(), 2, &["--model", "--data"]);
}
