//! Every recorded case of the kinds that `selma verify` knows, at its tolerance.

mod judges;
mod metrics;
mod mistakes;
mod models;
mod scorers;
#[cfg(feature = "simulator")]
mod simulator;

use std::collections::BTreeMap;
use std::path::Path;

use selma::device::Device;
use selma::formats::safetensors::{Safetensors, write};
use selma::tensor::{DType, Tensor};
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
    all_of(&["lora_train", "lora_train_text", "class_tokens"]);
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

/// A factor of a linear layer in the shape of a 3x3 convolution, or without any.
#[test]
fn factors_of_other_shapes_are_an_error() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/cases");
    let (case, root) = (cases.join("lora_train_sd1_attn"), cases.join(".."));
    let broken = tempfile::tempdir().unwrap();
    std::fs::copy(case.join("case.json"), broken.path().join("case.json")).unwrap();
    let file = Safetensors::open(&case.join("tensors.safetensors")).unwrap();
    for (factor, shape) in
        [(".lora_B.weight", vec![2, 2, 3, 3]), (".lora_B.weight", vec![4]), (".lora_A.weight", vec![])]
    {
        let wrong = |name: &&str| name.starts_with("lora.init.") && name.ends_with(factor);
        let name = file.names().find(wrong).unwrap();
        let tensors = file.names().map(|each| {
            let tensor = if each == name { Tensor::zeros(&shape, DType::F32) } else { file.tensor(each).unwrap() };
            (each.to_owned(), tensor)
        });
        let path = broken.path().join("tensors.safetensors");
        write(&path, &tensors.collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
        let error = verify::run(broken.path(), Some(&root), &Device::Cpu, DType::F32).err().unwrap().to_string();
        assert!(error.contains("case.json") && error.contains("lora.init"), "{error}");
    }
}

/// In 16 bits on the CPU, where nothing but the format gives the bounds: recorded numbers are within them, and mistakes are not.
#[test]
fn bounds_of_formats_break_at_a_mistake() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/cases");
    let broken = tempfile::tempdir().unwrap();
    let worst = |folder: &Path, precision| {
        let outcome = verify::run(folder, Some(&cases.join("..")), &Device::Cpu, precision).unwrap();
        (outcome.worst().quantity.clone(), outcome.worst().ok())
    };
    let sample = |name: &str, x: &Tensor, _: &dyn Fn(&str) -> Tensor| {
        (name == "out.sample")
            .then(|| Tensor::new(x.data::<f32>().iter().map(|x| 1.3 * x).collect::<Vec<_>>(), x.shape()))
    };
    // One matrix that went the other way, and one gradient that is half as large.
    let reversed = |name: &str, x: &Tensor, init: &dyn Fn(&str) -> Tensor| {
        let module = name.strip_prefix("out.lora.").filter(|module| module.ends_with("attn1.to_q.lora_B.weight"))?;
        let start = init(&format!("lora.init.{module}"));
        let pairs = start.data::<f32>().iter().zip(x.data::<f32>());
        Some(Tensor::new(pairs.map(|(start, end)| start - (end - start)).collect::<Vec<_>>(), x.shape()))
    };
    let halved = |name: &str, x: &Tensor, _: &dyn Fn(&str) -> Tensor| {
        let wanted = name.starts_with("out.grad.") && name.ends_with(".weight");
        wanted.then(|| Tensor::new(x.data::<f32>().iter().map(|x| x / 2.0).collect::<Vec<_>>(), x.shape()))
    };
    type Mistake<'a> = &'a dyn Fn(&str, &Tensor, &dyn Fn(&str) -> Tensor) -> Option<Tensor>;
    let mistakes: [(&str, &str, Mistake); 3] = [
        ("unet_sd1", "sample", &sample),
        ("lora_train_sd1_attn", "update", &reversed),
        ("lora_train_sd1_attn", "grad", &halved),
    ];
    for precision in [DType::Bf16, DType::F16] {
        for (case, quantity, mistake) in &mistakes {
            let folder = cases.join(case);
            assert!(worst(&folder, precision).1, "{case} in {precision:?}: {}", worst(&folder, precision).0);
            let file = Safetensors::open(&folder.join("tensors.safetensors")).unwrap();
            let read = |name: &str| file.tensor(name).unwrap();
            let mut changed = 0;
            let tensors = file.names().map(|name| {
                let wrong = mistake(name, &read(name), &read);
                changed += usize::from(wrong.is_some());
                (name.to_owned(), wrong.unwrap_or_else(|| read(name)))
            });
            let tensors: Vec<_> = tensors.collect();
            assert!(changed > 0, "{case}: nothing to plant a mistake in");
            std::fs::copy(folder.join("case.json"), broken.path().join("case.json")).unwrap();
            write(&broken.path().join("tensors.safetensors"), &tensors, &BTreeMap::new()).unwrap();
            let (found, ok) = worst(broken.path(), precision);
            assert!(!ok && found.starts_with(quantity), "{case} in {precision:?}: {found}");
        }
    }
}
