//! The small models as single files in the LDM layout, by a mapping of this file's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selma::formats::safetensors::{Safetensors, write};
use selma::tensor::{DType, Tensor};
use serde_json::{Value, json};

use crate::{bytes, parity};

pub type Tensors = BTreeMap<String, Tensor>;

pub fn json_of(path: PathBuf) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap()
}

pub fn tensors_of(folder: &Path) -> Tensors {
    let path = ["diffusion_pytorch_model", "model"].map(|stem| folder.join(format!("{stem}.safetensors")));
    let file = Safetensors::open(path.iter().find(|path| path.exists()).unwrap()).unwrap();
    file.names().map(|name| (name.to_string(), file.tensor(name).unwrap())).collect()
}

/// Values of a tensor and its transposes and sums, in its own type.
fn remade(values: Vec<f64>, shape: &[usize], like: &Tensor) -> Tensor {
    Tensor::from_reals(values, shape, like.dtype())
}

/// The names of CompVis' UNet, by the rules of diffusers' conversion script.
fn unet_to_ldm(tensors: Tensors, config: &Value) -> Tensors {
    let levels = config["block_out_channels"].as_array().unwrap().len();
    let n = config["layers_per_block"].as_u64().unwrap() as usize;
    let mut blocks = Vec::new();
    for i in 0..levels {
        for j in 0..n {
            let at = (n + 1) * i + j + 1;
            blocks.push((format!("down_blocks.{i}.resnets.{j}."), format!("input_blocks.{at}.0.")));
            blocks.push((format!("down_blocks.{i}.attentions.{j}."), format!("input_blocks.{at}.1.")));
        }
        for j in 0..=n {
            let at = (n + 1) * i + j;
            blocks.push((format!("up_blocks.{i}.resnets.{j}."), format!("output_blocks.{at}.0.")));
            blocks.push((format!("up_blocks.{i}.attentions.{j}."), format!("output_blocks.{at}.1.")));
        }
        let down = format!("input_blocks.{}.0.op.", (n + 1) * (i + 1));
        blocks.push((format!("down_blocks.{i}.downsamplers.0.conv."), down));
        let slot = if config["up_block_types"][i] == "CrossAttnUpBlock2D" { 2 } else { 1 };
        let up = format!("output_blocks.{}.{slot}.conv.", (n + 1) * i + n);
        blocks.push((format!("up_blocks.{i}.upsamplers.0.conv."), up));
    }
    for (hf, ldm) in [
        ("mid_block.attentions.0.", "middle_block.1."),
        ("mid_block.resnets.0.", "middle_block.0."),
        ("mid_block.resnets.1.", "middle_block.2."),
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("add_embedding.linear_1.", "label_emb.0.0."),
        ("add_embedding.linear_2.", "label_emb.0.2."),
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
    ] {
        blocks.push((hf.into(), ldm.into()));
    }
    let resnet = [
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("time_emb_proj", "emb_layers.1"),
        ("conv_shortcut", "skip_connection"),
    ];
    let rename = |name: &str| {
        let (hf, ldm) = blocks.iter().find(|(hf, _)| name.starts_with(hf)).unwrap_or_else(|| panic!("{name}"));
        let mut rest = name[hf.len()..].to_string();
        if hf.contains("resnets") {
            for (hf, ldm) in resnet {
                rest = rest.replace(hf, ldm);
            }
        }
        format!("model.diffusion_model.{ldm}{rest}")
    };
    tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect()
}

pub fn vae_to_ldm(tensors: Tensors, levels: usize, prefix: &str) -> Tensors {
    let rename = |name: &str| {
        let mut name = name.to_string();
        for i in 0..levels {
            for j in 0..4 {
                name = name
                    .replace(&format!("encoder.down_blocks.{i}.resnets.{j}."), &format!("encoder.down.{i}.block.{j}."));
                let up = format!("decoder.up.{}.block.{j}.", levels - 1 - i);
                name = name.replace(&format!("decoder.up_blocks.{i}.resnets.{j}."), &up);
            }
            name = name.replace(&format!("down_blocks.{i}.downsamplers.0."), &format!("down.{i}.downsample."));
            name = name.replace(&format!("up_blocks.{i}.upsamplers.0."), &format!("up.{}.upsample.", levels - 1 - i));
        }
        for (hf, ldm) in [
            ("mid_block.resnets.0.", "mid.block_1."),
            ("mid_block.resnets.1.", "mid.block_2."),
            ("mid_block.attentions.0.", "mid.attn_1."),
            ("conv_shortcut", "nin_shortcut"),
            ("conv_norm_out", "norm_out"),
            ("group_norm.", "norm."),
            ("to_q.", "q."),
            ("to_k.", "k."),
            ("to_v.", "v."),
            ("to_out.0.", "proj_out."),
        ] {
            name = name.replace(hf, ldm);
        }
        name
    };
    let as_convolution = |name: &str, tensor: Tensor| match *tensor.shape() {
        // CompVis' attention is made of 1x1 convolutions; one file in the wild has lost the last dimension.
        [a, b] if name.contains("decoder.mid.attn_1.q") => tensor.with_shape(&[a, b, 1]),
        [a, b] => tensor.with_shape(&[a, b, 1, 1]),
        _ => tensor,
    };
    let renamed = tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor));
    renamed.map(|(name, tensor)| (format!("{prefix}{name}"), as_convolution(&name, tensor))).collect()
}

/// Names with their `text_model.` level, which newer files leave out.
fn levelled(tensors: Tensors) -> Tensors {
    let full = |name: String| match name.starts_with("text_") {
        true => name,
        false => format!("text_model.{name}"),
    };
    tensors.into_iter().map(|(name, tensor)| (full(name), tensor)).collect()
}

fn open_clip(tensors: &Tensors, layers: usize, prefix: &str) -> Tensors {
    let mut out = Tensors::new();
    let mut put = |name: String, tensor: &Tensor| drop(out.insert(format!("{prefix}{name}"), tensor.clone()));
    let get = |name: &str| &tensors[name];
    put("token_embedding.weight".into(), get("text_model.embeddings.token_embedding.weight"));
    put("positional_embedding".into(), get("text_model.embeddings.position_embedding.weight"));
    for parameter in ["weight", "bias"] {
        put(format!("ln_final.{parameter}"), get(&format!("text_model.final_layer_norm.{parameter}")));
        for layer in 0..layers {
            let (from, to) = (format!("text_model.encoder.layers.{layer}"), format!("transformer.resblocks.{layer}"));
            for (hf, theirs) in [
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
                ("self_attn.out_proj", "attn.out_proj"),
            ] {
                put(format!("{to}.{theirs}.{parameter}"), get(&format!("{from}.{hf}.{parameter}")));
            }
            let parts = ["q", "k", "v"].map(|x| get(&format!("{from}.self_attn.{x}_proj.{parameter}")));
            let mut shape = parts[0].shape().to_vec();
            shape[0] *= 3;
            let values = parts.iter().flat_map(|t| t.reals::<f64>().into_owned()).collect();
            put(format!("{to}.attn.in_proj_{parameter}"), &remade(values, &shape, parts[0]));
        }
    }
    if let Some(projection) = tensors.get("text_projection.weight") {
        let [rows, columns] = projection.shape().try_into().unwrap();
        let values = projection.reals::<f64>();
        let turned = (0..columns).flat_map(|j| (0..rows).map(move |i| (i, j)));
        let turned = turned.map(|(i, j)| values[i * columns + j]).collect();
        put("text_projection".into(), &remade(turned, &[columns, rows], projection));
    }
    out
}

/// A small model as one file, with the ballast that published ones have.
pub fn checkpoint(model: &str, path: &Path) {
    let folder = parity(&format!("models/{model}"));
    let config = |component: &str| json_of(folder.join(component).join("config.json"));
    let (unet, vae) = (config("unet"), config("vae"));
    let mut all = unet_to_ldm(tensors_of(&folder.join("unet")), &unet);
    let levels = vae["block_out_channels"].as_array().unwrap().len();
    all.extend(vae_to_ldm(tensors_of(&folder.join("vae")), levels, "first_stage_model."));
    let first = levelled(tensors_of(&folder.join("text_encoder")));
    let layers = |component: &str| config(component)["num_hidden_layers"].as_u64().unwrap() as usize;
    let ballast = |shape: &[usize]| Tensor::full(shape, 7.0, DType::F32);
    match model {
        "tiny-sd1" => {
            // As in old merges, without the level `text_model.`.
            let bare =
                |name: String| format!("cond_stage_model.transformer.{}", name.trim_start_matches("text_model."));
            all.extend(first.into_iter().map(|(name, tensor)| (bare(name), tensor)));
            all.insert(
                "cond_stage_model.transformer.embeddings.position_ids".into(),
                Tensor::new(vec![0i64; 77], &[1, 77]),
            );
        }
        "tiny-sd2" => {
            let at = "cond_stage_model.model.";
            let mut encoder = open_clip(&first, layers("text_encoder"), at);
            // The layer after the penultimate one, and the projection, are there and of no use.
            let last = layers("text_encoder");
            let copied = encoder.iter().filter(|(name, _)| name.contains("resblocks.0."));
            let spare: Vec<_> = copied
                .map(|(name, tensor)| (name.replace(".0.", &format!(".{last}.")), ballast(tensor.shape())))
                .collect();
            encoder.extend(spare);
            encoder.insert(format!("{at}text_projection"), ballast(&[16, 16]));
            encoder.insert(format!("{at}logit_scale"), ballast(&[]));
            all.extend(encoder);
        }
        _ => {
            let at = "conditioner.embedders.0.transformer.";
            all.extend(first.into_iter().map(|(name, tensor)| (format!("{at}{name}"), tensor)));
            let second = levelled(tensors_of(&folder.join("text_encoder_2")));
            all.extend(open_clip(&second, layers("text_encoder_2"), "conditioner.embedders.1.model."));
            all.insert("denoiser.sigmas".into(), ballast(&[1000]));
        }
    }
    all.insert("model_ema.diffusion_modelinput_blocks00weight".into(), ballast(&[3]));
    all.insert("alphas_cumprod".into(), ballast(&[1000]));
    all.insert("a_note_of_somebody".into(), ballast(&[1]));
    let mut own = json!({ "unet": unet, "vae": vae });
    for component in ["text_encoder", "text_encoder_2"] {
        if folder.join(component).exists() {
            own[component] = config(component);
            let tokenizer = component.replace("text_encoder", "tokenizer");
            own[&tokenizer] = json_of(folder.join(&tokenizer).join("tokenizer_config.json"));
        }
    }
    own["scheduler"] = json_of(folder.join("scheduler/scheduler_config.json"));
    let metadata = BTreeMap::from([("selma.config".to_string(), own.to_string())]);
    let tensors: Vec<_> = all.into_iter().collect();
    write(path, &tensors, &metadata).unwrap();
}
