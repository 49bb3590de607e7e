use std::collections::BTreeMap;
use std::path::Path;

use selma::formats::model_dir::{Family, ModelDir};
use selma::formats::safetensors::{Safetensors, write};
use selma::nn::{AutoencoderKl, ClipText, Layer, UNet};
use selma::tensor::{DType, Tensor};
use serde_json::{Value, json};

use crate::fixtures;

/// A copy of one component of tiny-sd1 whose config and tensors can be changed.
fn altered(
    component: &str,
    stem: &str,
    config: impl FnOnce(&mut Value),
    tensors: impl FnOnce(&mut BTreeMap<String, Tensor>),
) -> tempfile::TempDir {
    let from = fixtures().join("models/tiny-sd1").join(component);
    let to = tempfile::tempdir().unwrap();
    let mut json: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    config(&mut json);
    std::fs::write(to.path().join("config.json"), json.to_string()).unwrap();
    let file = Safetensors::open(&from.join(format!("{stem}.safetensors"))).unwrap();
    let mut all: BTreeMap<_, _> = file.names().map(|name| (name.to_string(), file.tensor(name).unwrap())).collect();
    tensors(&mut all);
    let all: Vec<_> = all.into_iter().collect();
    write(&to.path().join(format!("{stem}.safetensors")), &all, &BTreeMap::new()).unwrap();
    to
}

const DIFFUSION: &str = "diffusion_pytorch_model";

fn unet(config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> Result<UNet, String> {
    let dir = altered("unet", DIFFUSION, config, tensors);
    UNet::load(dir.path(), DType::F32).map_err(|e| e.to_string())
}

#[test]
fn unsupported_settings_are_named_with_their_values() {
    for (key, value) in [
        ("time_cond_proj_dim", json!(256)),
        ("class_embed_type", json!("timestep")),
        ("act_fn", json!("mish")),
        ("down_block_types", json!(["AttnDownBlock2D", "DownBlock2D"])),
        ("norm_num_groups", json!(7)),
        ("attention_head_dim", json!([8, 8, 8])),
        ("attention_head_dim", json!(7)),
        ("block_out_channels", json!([32, -1])),
        ("only_cross_attention", json!([false, true])),
        ("num_attention_heads", json!(8)),
        ("addition_embed_type", json!("image")),
        ("an_unknown_key", json!(true)),
    ] {
        let message = unet(|config| config[key] = value.clone(), |_| ()).err().unwrap();
        assert!(message.contains(&format!("`{key}` is {value}")) && message.contains("config.json"), "{message}");
    }
    let dir = altered("vae", DIFFUSION, |c| c["shift_factor"] = json!(0.1), |_| ());
    let message = AutoencoderKl::load(dir.path(), DType::F32).err().unwrap().to_string();
    assert!(message.contains("`shift_factor` is 0.1"), "{message}");
    let dir = altered("text_encoder", "model", |c| c["hidden_act"] = json!("relu"), |_| ());
    let message = ClipText::load(dir.path(), DType::F32).err().unwrap().to_string();
    assert!(message.contains("`hidden_act` is \"relu\""), "{message}");
}

#[test]
fn notes_of_other_libraries_are_ignored() {
    unet(|config| config["_name_or_path"] = json!("somewhere"), |_| ()).unwrap();
}

#[test]
fn every_tensor_is_accounted_for() {
    let zero = || Tensor::zeros(&[2], DType::F32);
    let extra = unet(|_| (), |t| drop(t.insert("extra.weight".into(), zero())));
    let message = extra.err().unwrap();
    assert!(message.contains("extra.weight"), "{message}");
    let missing = unet(|_| (), |t| drop(t.remove("conv_out.bias")));
    let message = missing.err().unwrap();
    assert!(message.contains("no tensor conv_out.bias"), "{message}");
    let wrong = unet(|_| (), |t| drop(t.insert("conv_out.bias".into(), zero())));
    let message = wrong.err().unwrap();
    assert!(message.contains("conv_out.bias has shape [2]"), "{message}");
}

#[test]
fn pickles_are_refused_with_a_way_out() {
    let dir = altered("unet", DIFFUSION, |_| (), |_| ());
    let file = dir.path().join("diffusion_pytorch_model.safetensors");
    std::fs::rename(&file, file.with_extension("bin")).unwrap();
    let message = UNet::load(dir.path(), DType::F32).err().unwrap().to_string();
    assert!(message.contains("pickle") && message.contains("save_pretrained"), "{message}");
}

#[test]
fn shards_and_fp16_variants_are_found() {
    let dir = altered("unet", DIFFUSION, |_| (), |_| ());
    let file = dir.path().join("diffusion_pytorch_model.safetensors");
    let variant = dir.path().join("diffusion_pytorch_model.fp16.safetensors");
    std::fs::rename(&file, &variant).unwrap();
    let expected = UNet::load(dir.path(), DType::F32).unwrap();

    let whole = Safetensors::open(&variant).unwrap();
    let mut map = serde_json::Map::new();
    let mut shards = [Vec::new(), Vec::new()];
    for (i, name) in whole.names().enumerate() {
        shards[i % 2].push((name.to_string(), whole.tensor(name).unwrap()));
        map.insert(name.into(), json!(shard(i % 2)));
    }
    for (i, tensors) in shards.iter().enumerate() {
        write(&dir.path().join(shard(i)), tensors, &BTreeMap::new()).unwrap();
    }
    std::fs::remove_file(&variant).unwrap();
    let index = dir.path().join("diffusion_pytorch_model.safetensors.index.json");
    std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    let sharded = UNet::load(dir.path(), DType::F32).unwrap();
    for (a, b) in expected.parameters().iter().zip(sharded.parameters()) {
        assert_eq!((a.name(), a.get().bytes()), (b.name(), b.get().bytes()));
    }

    std::fs::write(&index, json!({ "weight_map": { "a": "../a.safetensors" } }).to_string()).unwrap();
    let message = UNet::load(dir.path(), DType::F32).err().unwrap().to_string();
    assert!(message.contains("weight_map"), "{message}");
}

fn shard(i: usize) -> String {
    format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", i + 1)
}

#[test]
fn old_vae_files_and_unprefixed_encoders_load_the_same() {
    let old = |tensors: &mut BTreeMap<String, Tensor>| {
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(name, mut value)| {
                let mut renamed = name.clone();
                for (new, old) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")] {
                    renamed = renamed.replace(&format!("attentions.0.{new}"), &format!("attentions.0.{old}"));
                }
                if renamed != name && value.shape().len() == 2 {
                    let [a, b] = value.dims("test").unwrap();
                    value = value.with_shape(&[a, b, 1, 1]);
                }
                (renamed, value)
            })
            .collect();
    };
    let model = fixtures().join("models/tiny-sd1");
    let dir = altered("vae", DIFFUSION, |_| (), old);
    let (a, b) = (
        AutoencoderKl::load(dir.path(), DType::F32).unwrap(),
        AutoencoderKl::load(&model.join("vae"), DType::F32).unwrap(),
    );
    for (a, b) in a.parameters().iter().zip(b.parameters()) {
        assert_eq!((a.name(), a.get().bytes()), (b.name(), b.get().bytes()));
    }

    let strip = |tensors: &mut BTreeMap<String, Tensor>| {
        *tensors =
            std::mem::take(tensors).into_iter().map(|(name, value)| (name.replace("text_model.", ""), value)).collect();
    };
    let dir = altered("text_encoder", "model", |_| (), strip);
    let mut encoder = ClipText::load(dir.path(), DType::F32).unwrap();
    let mut first = None;
    encoder.visit(&mut |layer: Layer<'_>| {
        first.get_or_insert(layer.name().to_string());
    });
    assert_eq!(first.as_deref(), Some("text_model.encoder.layers.0.self_attn.q_proj"));
}

#[test]
fn a_model_folder_says_its_family_and_parts() {
    let open = |name: &str| ModelDir::open(&fixtures().join("models").join(name)).unwrap();
    let (sd1, xl) = (open("tiny-sd1"), open("tiny-sdxl"));
    assert_eq!((sd1.family, sd1.text_encoder_2.is_some()), (Family::StableDiffusion, false));
    assert_eq!((xl.family, xl.text_encoder_2.is_some()), (Family::StableDiffusionXl, true));
    assert_eq!(xl.scheduler_class, "EulerDiscreteScheduler");
    let message = ModelDir::open(Path::new("/")).unwrap_err().to_string();
    assert!(message.contains("model_index.json"), "{message}");
}
