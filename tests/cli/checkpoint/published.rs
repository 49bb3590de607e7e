//! Configurations follow from the shapes of a file without any: those of the published models.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use selma::formats::checkpoint::Checkpoint;
use selma::nn::{ClipConfig, Config, UNetConfig, VaeConfig};
use serde_json::{Value, json};

use super::writer::json_of;
use crate::parity;

#[allow(dead_code, reason = "the example that measures at full size uses the rest")]
#[path = "../../full_size/configs.rs"]
mod configs;

type Shapes = BTreeMap<String, Vec<usize>>;

/// What the configuration of a UNet follows from: levels with their channels and transformer blocks, the last of them
/// the middle's, the width of the text states, and whether projections are matrices.
fn unet(channels: &[usize], depths: &[usize], context: usize, linear: bool, tensors: &mut Shapes) {
    let mut put = |name: &str, shape: &[usize]| {
        drop(tensors.insert(format!("model.diffusion_model.{name}.weight"), shape.to_vec()));
    };
    let levels = channels.len();
    put("input_blocks.0.0", &[channels[0], 4, 3, 3]);
    put("out.2", &[4, channels[0], 3, 3]);
    let transformers = |put: &mut dyn FnMut(&str, &[usize]), at: &str, depth: usize, width: usize| {
        let projection: &[usize] = if linear { &[width, width] } else { &[width, width, 1, 1] };
        if depth > 0 {
            put(&format!("{at}.proj_in"), projection);
        }
        for i in 0..depth {
            put(&format!("{at}.transformer_blocks.{i}.attn2.to_k"), &[width, context]);
        }
    };
    for (level, &width) in channels.iter().enumerate() {
        for j in 0..2 {
            let block = format!("input_blocks.{}", level * 3 + j + 1);
            put(&format!("{block}.0.in_layers.2"), &[width, width, 3, 3]);
            transformers(&mut put, &format!("{block}.1"), depths[level], width);
        }
        if level + 1 < levels {
            put(&format!("input_blocks.{}.0.op", level * 3 + 3), &[width, width, 3, 3]);
        }
        for j in 0..3 {
            let block = format!("output_blocks.{}", (levels - 1 - level) * 3 + j);
            put(&format!("{block}.0.in_layers.2"), &[width, width, 3, 3]);
            transformers(&mut put, &format!("{block}.1"), depths[level], width);
        }
    }
    transformers(&mut put, "middle_block.1", depths[levels], channels[levels - 1]);
}

fn vae(tensors: &mut Shapes) {
    let mut put = |name: &str, shape: &[usize]| {
        drop(tensors.insert(format!("first_stage_model.{name}.weight"), shape.to_vec()));
    };
    for (level, width) in [128, 256, 512, 512].into_iter().enumerate() {
        for j in 0..2 {
            put(&format!("encoder.down.{level}.block.{j}.conv1"), &[width, width, 3, 3]);
        }
        put(&format!("decoder.up.{level}.block.0.conv1"), &[width, width, 3, 3]);
    }
    put("encoder.conv_in", &[128, 3, 3, 3]);
    put("decoder.conv_in", &[512, 4, 3, 3]);
    put("decoder.conv_out", &[3, 128, 3, 3]);
    put("post_quant_conv", &[4, 4, 1, 1]);
}

fn clip_l(prefix: &str, tensors: &mut Shapes) {
    let mut put = |name: &str, shape: &[usize]| {
        drop(tensors.insert(format!("{prefix}text_model.{name}.weight"), shape.to_vec()));
    };
    put("embeddings.token_embedding", &[49_408, 768]);
    put("embeddings.position_embedding", &[77, 768]);
    (0..12).for_each(|i| put(&format!("encoder.layers.{i}.mlp.fc1"), &[3072, 768]));
}

fn open_clip(prefix: &str, width: usize, layers: usize, tensors: &mut Shapes) {
    let mut put = |name: &str, shape: &[usize]| drop(tensors.insert(format!("{prefix}{name}"), shape.to_vec()));
    put("token_embedding.weight", &[49_408, width]);
    put("positional_embedding", &[77, width]);
    put("text_projection", &[width, width]);
    for i in 0..layers {
        let at = format!("transformer.resblocks.{i}.mlp.c_fc.weight");
        put(&at, &[4 * width, width]);
    }
}

/// A file of these tensors. It is one large hole, which takes no room on the disk.
fn write(path: &Path, tensors: &Shapes, metadata: &Value) {
    let mut header = json!({ "__metadata__": metadata });
    let mut at = 0;
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<usize>() * 2;
        header[name] = json!({ "dtype": "F16", "shape": shape, "data_offsets": [at, end] });
        at = end;
    }
    let mut header = header.to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
}

fn parsed(value: Value) -> Config {
    Config::from_value(Path::new("config.json"), value).unwrap()
}

#[test]
fn shapes_say_what_the_published_configurations_say() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let mut sd1 = Shapes::new();
    unet(&[320, 640, 1280, 1280], &[1, 1, 1, 0, 1], 768, false, &mut sd1);
    clip_l("cond_stage_model.transformer.", &mut sd1);
    let mut sd2 = Shapes::new();
    unet(&[320, 640, 1280, 1280], &[1, 1, 1, 0, 1], 1024, true, &mut sd2);
    open_clip("cond_stage_model.model.", 1024, 24, &mut sd2);
    let mut xl = Shapes::new();
    unet(&[320, 640, 1280], &[0, 2, 10, 10], 2048, true, &mut xl);
    xl.insert("model.diffusion_model.label_emb.0.0.weight".into(), vec![1280, 2816]);
    clip_l("conditioner.embedders.0.transformer.", &mut xl);
    open_clip("conditioner.embedders.1.model.", 1280, 32, &mut xl);

    let mut sd2_unet = configs::sd15_unet();
    sd2_unet["attention_head_dim"] = json!([5, 10, 20, 20]);
    sd2_unet["cross_attention_dim"] = json!(1024);
    sd2_unet["use_linear_projection"] = json!(true);
    sd2_unet["sample_size"] = json!(96);
    let mut clip_h = configs::clip_big_g();
    for (key, value) in [
        ("architectures", json!(["CLIPTextModel"])),
        ("hidden_size", json!(1024)),
        ("intermediate_size", json!(4096)),
        ("num_attention_heads", json!(16)),
        ("num_hidden_layers", json!(23)),
        ("projection_dim", json!(1024)),
    ] {
        clip_h[key] = value;
    }
    let v = json!({ "modelspec.architecture": "stable-diffusion-v2-768-v" });
    let none = json!({});
    let families = [
        (sd1, &none, configs::sd15_unet(), vec![configs::clip_l()], false),
        (sd2, &v, sd2_unet, vec![clip_h], false),
        (xl, &none, configs::sdxl_unet(), vec![configs::clip_l(), configs::clip_big_g()], true),
    ];
    for (mut tensors, metadata, unet, encoders, is_xl) in families {
        vae(&mut tensors);
        write(&path, &tensors, metadata);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let config = |component: &str| parsed(checkpoint.config(component).unwrap());
        let read = |config: &Config| UNetConfig::parse(config).unwrap();
        assert_eq!(read(&config("unet")), read(&parsed(unet)));
        let read = |config: &Config| VaeConfig::parse(config).unwrap();
        assert_eq!(read(&config("vae")), read(&parsed(configs::vae(is_xl))));
        for (component, published) in ["text_encoder", "text_encoder_2"].iter().zip(encoders) {
            let read = |config: &Config| ClipConfig::parse(config).unwrap();
            assert_eq!(read(&config(component)), read(&parsed(published)), "{component}");
        }
        let scheduler = checkpoint.config("scheduler").unwrap();
        let prediction = if metadata == &v { "v_prediction" } else { "epsilon" };
        assert_eq!(scheduler["prediction_type"], prediction);
        if metadata == &none {
            for (key, value) in configs::scheduler(is_xl).as_object().unwrap() {
                assert_eq!(&scheduler[key], value, "{key}");
            }
        }
    }
}

#[test]
fn a_vae_alone_scales_as_the_model_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vae.safetensors");
    let mut tensors = Shapes::new();
    vae(&mut tensors);
    write(&path, &tensors, &json!({}));
    for model in ["tiny-sd1", "tiny-sdxl"] {
        let own = parity(&format!("models/{model}/vae"));
        let published = json_of(own.join("config.json"))["scaling_factor"].as_f64();
        let config = VaeConfig::standing_in(&path.join("vae"), &own).unwrap();
        assert_eq!(Some(config.scaling_factor), published, "{model}");
    }
}

#[test]
fn a_guess_at_the_prediction_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let mut tensors = Shapes::new();
    unet(&[320, 640, 1280, 1280], &[1, 1, 1, 0, 1], 1024, true, &mut tensors);
    open_clip("cond_stage_model.model.", 1024, 24, &mut tensors);
    vae(&mut tensors);
    let biases = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    tensors.insert(biases.into(), vec![320]);
    write(&path, &tensors, &json!({}));
    let notes = |path: &Path| Checkpoint::open(path).unwrap().notes().unwrap();
    // A hole is zeros, which deviate by nothing.
    assert_eq!(notes(&path).len(), 1);
    assert!(notes(&path)[0].contains("--prediction epsilon"), "{:?}", notes(&path));
    // 1 in half precision for half of the values, so that they deviate by 0.5.
    let mut file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut length = [0; 8];
    file.read_exact(&mut length).unwrap();
    let mut header = vec![0; u64::from_le_bytes(length) as usize];
    file.read_exact(&mut header).unwrap();
    let values = serde_json::from_slice::<Value>(&header).unwrap()[biases]["data_offsets"][0].as_u64().unwrap();
    file.seek(SeekFrom::Current(values as i64)).unwrap();
    file.write_all(&0x3c00u16.to_le_bytes().repeat(160)).unwrap();
    drop(file);
    let told = notes(&path);
    assert!(told[0].contains("--prediction v_prediction") && told[0].contains("0.500"), "{told:?}");
    write(&path, &tensors, &json!({ "modelspec.prediction_type": "epsilon" }));
    let told = notes(&path);
    assert!(told[0].contains("the metadata says so"), "{told:?}");
}
