//! Spellings and files of public bug reports about other tools.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selma::formats::safetensors::{Safetensors, write};
use selma::lora::{self, base};
use selma::tensor::{DType, Tensor};

use crate::support::{assert_same, parity, sample_expert};

type Tensors = Vec<(String, Tensor)>;

/// Files keep alpha over rank in f32 or as text.
const TOLERANCE: f64 = 1e-6;

/// A LoRA of tiny-sd1's UNet in diffusers' spelling, its keys changed, and the expert that it is.
fn renamed(dir: &Path, rename: impl Fn(&str) -> String) -> (base::BaseModules, lora::Expert, PathBuf) {
    let (base, expert) = sample_expert("tiny-sd1", 2, 7);
    let path = dir.join("lora.safetensors");
    lora::save::diffusers(&path, &expert, &BTreeMap::new()).unwrap();
    let (tensors, metadata) = contents(&path);
    let tensors: Tensors = tensors.into_iter().map(|(key, tensor)| (rename(&key), tensor)).collect();
    write(&path, &tensors, &metadata).unwrap();
    (base, expert, path)
}

fn contents(path: &Path) -> (Tensors, BTreeMap<String, String>) {
    let file = Safetensors::open(path).unwrap();
    let tensors = file.names().map(|name| (name.to_owned(), file.tensor(name).unwrap())).collect();
    (tensors, file.metadata().clone())
}

fn refusal(path: &Path, base: Option<&base::BaseModules>) -> String {
    lora::load(path, base, false).err().expect("an error").to_string()
}

/// torch.compile, DistributedDataParallel, peft, and scripts that name the component twice.
#[test]
fn what_wrappers_add_to_names_is_taken_off() {
    let dir = tempfile::tempdir().unwrap();
    let behind_component = |key: &str, wrapper: &str| {
        let (component, rest) = key.split_once('.').unwrap();
        format!("{component}.{wrapper}{rest}")
    };
    for wrapper in ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod.", "unet."] {
        let rename = |key: &str| match (wrapper, key.split_once('.').unwrap().0) {
            ("unet.", component) => format!("{component}.{key}"),
            _ => behind_component(key, wrapper),
        };
        let (base, expert, path) = renamed(dir.path(), rename);
        assert_same(&expert, &lora::load(&path, Some(&base), false).unwrap().expert, TOLERANCE);
        assert_same(&expert, &lora::load(&path, None, false).unwrap().expert, TOLERANCE);
    }
    // sd-scripts on a compiled network.
    let (base, expert) = sample_expert("tiny-sd1", 2, 7);
    let path = dir.path().join("kohya.safetensors");
    lora::save::kohya(&path, &expert, Some(&base), &BTreeMap::new()).unwrap();
    let (tensors, metadata) = contents(&path);
    let rename = |key: String| key.replace("lora_unet_", "lora_unet__orig_mod_");
    let tensors: Tensors = tensors.into_iter().map(|(key, tensor)| (rename(key), tensor)).collect();
    write(&path, &tensors, &metadata).unwrap();
    assert_same(&expert, &lora::load(&path, Some(&base), false).unwrap().expert, TOLERANCE);
}

/// The projection of SDXL's second text encoder is trained by some presets of LyCORIS.
#[test]
fn the_projection_of_the_second_encoder_has_a_lora() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    let fill = |shape: &[usize]| {
        let len = shape.iter().product::<usize>();
        Tensor::new((0..len).map(|i| (i as f32).sin()).collect::<Vec<_>>(), shape)
    };
    let stored = |weight: &[usize]| -> Tensors {
        vec![
            ("lora_te2_text_projection.lora_down.weight".into(), fill(&[2, weight[1]])),
            ("lora_te2_text_projection.lora_up.weight".into(), fill(&[weight[0], 2])),
        ]
    };
    write(&path, &stored(&[1280, 1280]), &BTreeMap::new()).unwrap();
    let published = lora::load(&path, None, false).unwrap().expert;
    assert!(published.get("text_encoder_2", "text_projection").is_some());
    let base = base::modules(&parity().join("models/tiny-sdxl")).unwrap();
    write(&path, &stored(&base["text_encoder_2"]["text_projection"]), &BTreeMap::new()).unwrap();
    assert_eq!(lora::load(&path, Some(&base), false).unwrap().expert.len(), 1);
}

/// Every value of both 8-bit formats, as PyTorch converts it: tests/generate_fixtures/fp8.py.
#[test]
fn eight_bit_floats_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fp8.safetensors");
    let file = Safetensors::open(&path).unwrap();
    for format in ["e4m3", "e5m2"] {
        let (ours, reference) = (file.tensor(format).unwrap(), file.tensor(&format!("{format}.f32")).unwrap());
        for (code, (a, b)) in ours.reals::<f32>().iter().zip(reference.reals::<f32>().iter()).enumerate() {
            assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{format} {code:#x}: {a}, expected {b}");
        }
    }
}

#[test]
fn a_bundled_embedding_is_called_one() {
    let dir = tempfile::tempdir().unwrap();
    let (base, expert, path) = renamed(dir.path(), str::to_owned);
    let (mut tensors, metadata) = contents(&path);
    tensors.push(("bundle_emb.mytoken.string_to_param.*".into(), Tensor::zeros(&[2, 32], DType::F32)));
    write(&path, &tensors, &metadata).unwrap();
    let message = refusal(&path, Some(&base));
    assert!(message.contains("embedding mytoken") && message.contains("--allow-unused"), "{message}");
    assert_same(&expert, &lora::load(&path, Some(&base), true).unwrap().expert, TOLERANCE);
}

/// Converters leave modules in two spellings: equal ones are one, others are named.
#[test]
fn two_spellings_of_one_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let (base, expert, path) = renamed(dir.path(), str::to_owned);
    let (mut tensors, metadata) = contents(&path);
    let (key, tensor) = tensors.iter().find(|(key, _)| key.contains("attn1.to_q")).unwrap().clone();
    let second = key.replace("unet.", "unet._orig_mod.");
    tensors.push((second.clone(), tensor.clone()));
    write(&path, &tensors, &metadata).unwrap();
    let loaded = lora::load(&path, Some(&base), false).unwrap();
    assert_same(&expert, &loaded.expert, TOLERANCE);
    assert!(loaded.applied.contains_key(&key) && loaded.applied.contains_key(&second));
    tensors.last_mut().unwrap().1 = Tensor::zeros(tensor.shape(), DType::F32);
    write(&path, &tensors, &metadata).unwrap();
    let message = refusal(&path, Some(&base));
    assert!(message.contains("two spellings") && message.contains(&key) && message.contains(&second), "{message}");
}

#[test]
fn cut_and_lengthened_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (_, _, path) = renamed(dir.path(), str::to_owned);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 7]).unwrap();
    let message = refusal(&path, None);
    assert!(message.contains("truncated") && message.contains("last 7 of"), "{message}");
    std::fs::write(&path, [&whole[..], b"appended"].concat()).unwrap();
    let message = refusal(&path, None);
    assert!(message.contains("8 trailing bytes") && !message.contains("truncated"), "{message}");
}

#[test]
fn files_of_other_kinds_are_called_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    for (key, kind) in [
        ("model.diffusion_model.input_blocks.0.0.weight", "a full checkpoint (give it by --model)"),
        ("first_stage_model.decoder.conv_in.weight", "a VAE"),
        ("conv_in.weight", "the UNet of a model folder"),
        ("emb_params", "a textual inversion embedding"),
    ] {
        write(&path, &[(key.into(), Tensor::zeros(&[1], DType::F32))], &BTreeMap::new()).unwrap();
        let message = refusal(&path, None);
        assert!(message.contains(kind), "{message}");
    }
    std::fs::write(&path, [b"GGUF".as_slice(), &[3; 40]].concat()).unwrap();
    assert!(refusal(&path, None).contains("GGUF"));
}
