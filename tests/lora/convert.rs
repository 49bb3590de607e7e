//! `selma convert` through the binary: every layout reads back as the same LoRA, with the metadata that other tools want.

use std::collections::BTreeMap;
use std::path::Path;

use assert_cmd::Command;
use selma::formats::safetensors::Safetensors;
use selma::lora::{self, Expert, LoraFactors, save};
use selma::tensor::{DType, Tensor};
use sha2::{Digest, Sha256};

use crate::support::{assert_same, parity, sample_expert};

const TOLERANCE: f64 = 1e-6;

fn convert(from: &Path, to: &str, out: &Path) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.arg("convert").arg(from).args(["--overwrite", "--to", to, "--out"]).arg(out);
    command
}

#[test]
fn every_layout_converts_into_every_other() {
    for model in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (base, expert) = sample_expert(model, 0, 7);
        let folder = parity().join("models").join(model);
        save::diffusers(&at("start.safetensors"), &expert, &BTreeMap::new()).unwrap();
        let layouts = ["diffusers", "kohya", "peft"];
        for first in layouts {
            let one = at(&format!("{first}.safetensors"));
            convert(&at("start.safetensors"), first, &one).arg("--model").arg(&folder).assert().success();
            for second in layouts {
                let two = at(&format!("{first}-{second}.safetensors"));
                convert(&one, second, &two).arg("--model").arg(&folder).assert().success();
                assert_same(&expert, &lora::load(&two, Some(&base), false).unwrap().expert, TOLERANCE);
            }
            let again = at(&format!("again/{first}.safetensors"));
            std::fs::create_dir_all(at("again")).unwrap();
            convert(&at("start.safetensors"), first, &again).arg("--model").arg(&folder).assert().success();
            assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&again).unwrap(), "{first}");
        }
    }
}

#[test]
fn adapter_folders_hold_one_component_each() {
    let dir = tempfile::tempdir().unwrap();
    let (base, expert) = sample_expert("tiny-sdxl", 0, 7);
    let (file, out) = (dir.path().join("x.safetensors"), dir.path().join("adapters"));
    save::diffusers(&file, &expert, &BTreeMap::new()).unwrap();
    convert(&file, "peft", &out).assert().success();
    for (component, modules) in &expert.components {
        let loaded = lora::load(&out.join(component), Some(&base), false).unwrap().expert;
        let alone = Expert { components: BTreeMap::from([(component.clone(), modules.clone())]), ..Expert::default() };
        assert_same(&alone, &loaded, TOLERANCE);
        let text = std::fs::read(out.join(component).join("adapter_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(config["peft_type"], "LORA");
        assert_eq!(config["target_modules"].as_array().unwrap().len(), modules.len());
    }
    let again = convert(&file, "peft", &out).assert().code(1);
    assert!(String::from_utf8_lossy(&again.get_output().stderr).contains("exists already"));
}

/// LoraFactors for modules of the published SD 2.x, more than the MiB that the legacy hash looks behind.
fn published(component: &str, module: &str, shape: [usize; 2], rank: usize) -> Expert {
    let fill = |shape: &[usize]| {
        let len = shape.iter().product::<usize>();
        Tensor::new((0..len).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>(), shape)
    };
    let mut expert = Expert::default();
    let factors = LoraFactors::new(fill(&[rank, shape[1]]), fill(&[shape[0], rank]), 8.0).unwrap();
    expert.insert(component, module, factors);
    expert
}

#[test]
fn kohya_metadata_says_what_its_readers_ask() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("x.safetensors"), dir.path().join("out.safetensors"));
    let module = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";
    for (width, version, v2, architecture) in [
        (768, "sd_v1", "False", "stable-diffusion-v1/lora"),
        (1024, "sd_v2_v", "True", "stable-diffusion-v2-768-v/lora"),
        (2048, "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
    ] {
        let expert = published("unet", module, [1280, width], 160);
        let prediction = if width == 1024 { "v" } else { "epsilon" };
        let extra = BTreeMap::from([
            ("modelspec.prediction_type".to_string(), prediction.to_string()),
            ("ss_seed".to_string(), "7".to_string()),
        ]);
        save::diffusers(&file, &expert, &extra).unwrap();
        convert(&file, "kohya", &out).assert().success();
        let written = Safetensors::open(&out).unwrap();
        let says = |key: &str| written.metadata().get(key).map_or("", String::as_str);
        assert_eq!(says("ss_base_model_version"), version);
        assert_eq!(says("ss_v2"), v2);
        assert_eq!(says("ss_network_module"), "networks.lora");
        assert_eq!((says("ss_network_dim"), says("ss_network_alpha"), says("ss_network_args")), ("160", "8", "{}"));
        assert_eq!(says("ss_seed"), "7");
        assert_eq!(says("modelspec.architecture"), architecture);
        assert_eq!(says("modelspec.title"), "out");
        assert!(!written.metadata().contains_key("lora_adapter_metadata"));
        // No clock.
        assert!(!written.metadata().keys().any(|key| key.ends_with("date") || key.ends_with("_at")));

        // The hashes as sd-scripts defines them, computed here from the bytes.
        let bytes = std::fs::read(&out).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(says("sshs_model_hash"), hex(&bytes[header..]));
        assert_eq!(says("modelspec.hash_sha256"), format!("0x{}", hex(&bytes[header..])));
        // The legacy hash is of the file as it would be with the ss_ keys alone.
        let mut json: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
        json["__metadata__"].as_object_mut().unwrap().retain(|key, _| key.starts_with("ss_"));
        let mut small = json.to_string().into_bytes();
        small.resize(small.len().next_multiple_of(8), b' ');
        let mut whole = (small.len() as u64).to_le_bytes().to_vec();
        whole.extend(small);
        whole.extend(&bytes[header..]);
        assert!(whole.len() > 0x11_0000);
        assert_eq!(says("sshs_legacy_hash"), &hex(&whole[0x10_0000..0x11_0000])[..8]);
    }
}

#[test]
fn underscored_names_of_unknown_blocks_need_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("x.safetensors"), dir.path().join("out.safetensors"));
    let ones = |shape: &[usize]| Tensor::full(shape, 1.0, DType::F32);
    let tensors = [
        ("lora_unet_down_blocks_7_resnets_0_conv1.lora_down.weight".to_string(), ones(&[2, 4, 3, 3])),
        ("lora_unet_down_blocks_7_resnets_0_conv1.lora_up.weight".to_string(), ones(&[4, 2, 1, 1])),
    ];
    selma::formats::safetensors::write(&file, &tensors, &BTreeMap::new()).unwrap();
    let refused = convert(&file, "diffusers", &out).assert().code(1);
    let text = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(text.contains("down_blocks_7") && text.contains("--model"), "{text}");
    assert!(!out.exists());
}
