//! Every recorded case of the kinds that `selma verify` knows, at its tolerance.

mod judges;
mod scorers;
#[cfg(feature = "simulator")]
mod simulator;

use std::path::Path;

use selma::device::Device;
use selma::tensor::DType;
use selma::verify;

fn all_of(kinds: &[&str]) {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/cases");
    let mut folders: Vec<_> = std::fs::read_dir(&cases).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut ran = 0;
    for folder in folders {
        let case = verify::Case::open(&folder, None).unwrap();
        if !kinds.contains(&case.kind().unwrap()) {
            continue;
        }
        let outcome = verify::run(&folder, None, &Device::Cpu, DType::F32)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let worst = outcome.worst();
        assert!(worst.ok(), "{}: {} is off by {:e}", folder.display(), worst.quantity, worst.error);
        ran += 1;
    }
    assert!(ran > 1, "no cases of {kinds:?}");
}

#[test]
fn networks_agree_with_diffusers_and_transformers() {
    all_of(&["unet_forward", "text_encoder", "vae", "tokenizer"]);
}

#[test]
fn samplers_and_pipelines_agree_with_diffusers() {
    all_of(&["scheduler", "sample"]);
}

#[test]
fn lora_files_agree_with_peft() {
    all_of(&["lora_formats", "merge", "bake"]);
}

#[test]
fn training_steps_agree_with_peft() {
    all_of(&["lora_train", "class_tokens"]);
}

#[test]
fn pixels_and_pieces_agree_with_the_judges_programs() {
    all_of(&["preprocess", "bert_tokenizer"]);
}

#[test]
fn metrics_agree_with_their_references() {
    all_of(&["fid_stats", "kid", "cmmd", "diversity", "image_similarity"]);
}

#[test]
fn rules_of_neighbouring_systems_agree_with_theirs() {
    all_of(&["soft_label", "img2img_steps", "visor", "spatial_rules", "association", "tags", "selection"]);
    all_of(&["loop_rules", "gate", "long_prompts"]);
}

#[test]
fn a_wrong_number_is_found() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/cases");
    let broken = tempfile::tempdir().unwrap();
    let root = cases.join("..");
    std::fs::copy(cases.join("tokenizer_sd1/case.json"), broken.path().join("case.json")).unwrap();
    let file = cases.join("tokenizer_sd1/tensors.safetensors");
    let mut bytes = std::fs::read(file).unwrap();
    // The last id of the last text: padding, in the file's last eight bytes.
    let at = bytes.len() - 8;
    bytes[at] ^= 1;
    std::fs::write(broken.path().join("tensors.safetensors"), bytes).unwrap();
    let outcome = verify::run(broken.path(), Some(&root), &Device::Cpu, DType::F32).unwrap();
    assert!(!outcome.worst().ok());
}
