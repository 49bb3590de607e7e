//! What a newcomer asks the program first.

use crate::{bytes, parity, says, selma};

fn said(arguments: &[&str]) -> String {
    let output = selma().args(arguments).assert().success();
    String::from_utf8(output.get_output().stdout.clone()).unwrap()
}

#[test]
fn help_has_examples_commands_in_the_order_of_use_and_other_spellings() {
    let help = said(&["--help"]);
    let place = |word: &str| help.find(&format!("\n  {word} ")).unwrap_or_else(|| panic!("{word} in {help}"));
    let order = ["demo", "run", "prompts", "generate", "train", "merge", "eval"].map(place);
    assert!(order.is_sorted(), "{help}");
    assert!(help.contains("Examples:\n  selma demo"), "{help}");
    let generate = said(&["generate", "--help"]);
    for text in ["Examples:", "Prompts:", "Sampling:", "num-inference-steps", "guidance-scale", "[default: 50]"] {
        assert!(generate.contains(text), "{text} in {generate}");
    }
    let train = said(&["train", "--help"]);
    for text in ["Examples:", "Model and data:", "LoRA:", "Optimizer:", "[alias: --network-dim]", "max-train-steps"] {
        assert!(train.contains(text), "{text} in {train}");
    }
    // Each option has its group, and defaults look the same everywhere.
    assert!(!train.contains("(default: "), "{train}");
    let alone = train.split("\nOptions:").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    assert!(alone.lines().filter(|line| line.contains("--")).all(|line| line.contains("--help")), "{alone}");
    let usage = train.lines().find(|line| line.starts_with("Usage:")).unwrap();
    assert!(["--model", "--data", "--out"].iter().all(|option| usage.contains(option)), "{usage}");
    // What has to be given is in the usage line.
    let usage = generate.lines().find(|line| line.starts_with("Usage:")).unwrap();
    assert!(["--model", "--out", "--prompt"].iter().all(|option| usage.contains(option)), "{usage}");
}

#[test]
fn the_version_says_what_the_binary_can_compute_on() {
    let version = said(&["--version"]);
    assert!(
        version.starts_with(concat!("selma ", env!("CARGO_PKG_VERSION"), "\nCUDA kernels, machine code: ")),
        "{version}"
    );
    let simulator = if cfg!(feature = "simulator") { "kernels: built in" } else { "kernels: not built in" };
    assert!(version.lines().last().unwrap().contains(simulator), "{version}");
    assert_eq!(said(&["-V"]), concat!("selma ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_new_seed_is_drawn_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let generate = |seed: &str, out: &str| {
        let mut command = selma();
        command.args(["generate", "--steps", "1", "--prompt", "a cat", "--seed", seed, "--model"]);
        command.arg(parity("models/tiny-sd1")).arg("--vocab").arg(parity("clip_vocab"));
        let output = command.arg("--out").arg(dir.path().join(out)).assert().success();
        let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        (said, bytes(dir.path().join(out).join("00000.png")))
    };
    let (said, image) = generate("-1", "new");
    let seed = said.lines().find_map(|line| line.strip_prefix("--seed ")).unwrap_or_else(|| panic!("{said}"));
    assert!(generate(seed, "again").1 == image);
    assert!(generate("-1", "other").1 != image);
    let mut command = selma();
    command.args(["generate", "--prompt", "a", "--model", "shapes", "--out", "x", "--seed", "-2"]);
    says(command, 2, &["--seed", "-1 for a new one"]);
}

#[test]
fn a_path_that_is_not_there_is_told_with_its_option() {
    let out = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], words: &[&str]| {
        let mut command = selma();
        command.args(arguments).arg("--out").arg(out.path().join("out"));
        says(command, 1, words);
    };
    refused(&["generate", "--model", "./gone", "--prompt", "a"], &["./gone", "no such model", "diffusers"]);
    refused(&["generate", "--model", "shapes", "--prompts", "gone.txt"], &["gone.txt", "no such file", "--prompts"]);
    refused(&["generate", "--model", "shapes", "--prompt", "a", "--vae", "gone"], &["gone", "no such file", "--vae"]);
    let eval = ["eval", "--benchmark", "shapes", "--judge", "builtin", "--images"];
    refused(&[&eval[..], &["gone"]].concat(), &["gone", "no such file", "--images"]);
    refused(&["convert", "gone.safetensors", "--to", "kohya"], &["gone.safetensors", "no such file"]);
    refused(&["merge", "--lora", "gone.safetensors:0.5"], &["gone.safetensors", "no such file", "--lora"]);
    refused(&["resize", "gone.safetensors", "--rank", "2"], &["gone.safetensors", "no such file"]);
    let select = ["select", "--rule", "top:1", "--images", "gone", "--by", "gone.json"];
    refused(&select, &["gone", "no such file", "--images"]);
}

#[test]
fn man_pages_of_the_program_and_of_a_command() {
    let page = |arguments: &[&str]| {
        let output = selma().arg("man").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (whole, train) = (page(&[]), page(&["train"]));
    assert!(whole.contains(".TH selma 1") && whole.contains("train"), "{whole}");
    assert!(train.contains(".TH selma-train 1") && train.contains("optimizer"), "{train}");
    let output = selma().args(["man", "nothing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
