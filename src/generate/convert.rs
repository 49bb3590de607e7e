//! Whole models from diffusers' folders to single-file checkpoints, and back.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::data::clip_vocabulary;
use crate::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, FORCES_ZEROS, Kind};
use crate::formats::component::{self, weight_files};
use crate::formats::model_dir::{Family, ModelDir};
use crate::formats::safetensors::{self, Safetensors};
use crate::formats::{atomic, json as json_files};
use crate::lora::sgm;
use crate::tensor::{DType, Tensor};

type Tensors = BTreeMap<String, Tensor>;

const NETWORKS: [&str; 4] = ["unet", "vae", "text_encoder", "text_encoder_2"];

/// Writes the model folder as one file in the layout of CompVis and Stability, which says in its metadata (`selma.config`) what the
/// folder's configurations say. `note` is told what other programs will not find in it. Returns how many tensors it has.
///
/// # Errors
/// [`Error::File`] for a folder that is not whole, or a tensor that has no place in such files; [`Error::Io`].
pub fn to_single_file(folder: &Path, out: &Path, dtype: Option<DType>, note: &mut dyn FnMut(&str)) -> Result<usize> {
    let model = ModelDir::open(folder)?;
    let xl = model.family == Family::StableDiffusionXl;
    let mut own = Map::new();
    let mut all: Vec<(String, Tensor)> = Vec::new();
    for (component, place) in [
        ("unet", Some(&model.unet)),
        ("vae", Some(&model.vae)),
        ("text_encoder", Some(&model.text_encoder)),
        ("text_encoder_2", model.text_encoder_2.as_ref()),
    ] {
        let Some(place) = place else { continue };
        let config = component::json(&place.join("config.json"))?;
        check_vocabulary(place, component, &config)?;
        let tensors = read(place, dtype)?;
        let refuse = |name: &str| Error::file(place, format!("{name} has no place in a single-file checkpoint"));
        // OpenCLIP's encoders are those of SD 2.x and the second one of SDXL.
        let open_clip = component == "text_encoder_2" || (!xl && config["hidden_act"] == "gelu");
        let named = match (component, open_clip) {
            ("unet", _) => unet(tensors, &refuse)?,
            ("vae", _) => vae(tensors, &refuse)?,
            (_, true) => self::open_clip(tensors, if xl { XL_OPEN_CLIP } else { OPEN_CLIP }, &refuse)?,
            (_, false) => hf_encoder(tensors, if xl { XL_HF } else { HF }),
        };
        all.extend(named);
        own.insert(component.into(), config);
    }
    for (name, place) in [("tokenizer", Some(&model.tokenizer)), ("tokenizer_2", model.tokenizer_2.as_ref())] {
        if let Some(place) = place {
            own.insert(name.into(), component::json(&place.join("tokenizer_config.json"))?);
        }
    }
    let scheduler = component::json(&model.scheduler.join("scheduler_config.json"))?;
    let v = scheduler["prediction_type"] == "v_prediction";
    let open_clip = own["text_encoder"]["hidden_act"] == "gelu";
    own.insert("scheduler".into(), scheduler);
    if xl {
        own.insert("model_index".into(), json!({ FORCES_ZEROS: model.force_zeros_for_empty_prompt }));
    }
    let architecture = match (xl, open_clip, v) {
        (true, ..) => "stable-diffusion-xl-v1-base",
        (_, true, true) => "stable-diffusion-v2-768-v",
        (_, true, false) => "stable-diffusion-v2-512",
        _ => "stable-diffusion-v1",
    };
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let metadata = [
        ("format", "pt".to_owned()),
        ("modelspec.sai_model_spec", "1.0.1".to_owned()),
        ("modelspec.architecture", architecture.to_owned()),
        ("modelspec.implementation", "https://github.com/Stability-AI/generative-models".to_owned()),
        ("modelspec.prediction_type", if v { "v" } else { "epsilon" }.to_owned()),
        ("modelspec.title", name),
        ("selma.config", Value::Object(own).to_string()),
    ];
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    safetensors::write(out, &all, &metadata)?;
    if xl && !model.force_zeros_for_empty_prompt {
        note(
            "warning: force_zeros_for_empty_prompt is false in this model. selma finds that in the file; other programs have no \
             place for it in single files: in diffusers give force_zeros_for_empty_prompt=False to from_single_file",
        );
    }
    Ok(all.len())
}

/// Single files come without a vocabulary: whoever reads them takes CLIP's.
fn check_vocabulary(folder: &Path, component: &str, config: &Value) -> Result<()> {
    let (own, clip) = (config["vocab_size"].as_u64(), clip_vocabulary::ids().len() as u64);
    match own.filter(|own| component.starts_with("text_encoder") && *own != clip) {
        None => Ok(()),
        Some(own) => Err(Error::file(
            folder,
            format!("reads a vocabulary of {own} tokens; a single file has none, and is read with CLIP's {clip}"),
        )),
    }
}

/// Writes a checkpoint as a new folder in diffusers' layout. Returns how many tensors it has.
///
/// # Errors
/// [`Error::File`] where `out` exists already; as [`Checkpoint::open`]; [`Error::Io`].
pub fn to_folder(file: &Path, out: &Path, dtype: Option<DType>) -> Result<usize> {
    if out.exists() {
        return Err(Error::file(out, "exists already; name a new folder for the model"));
    }
    let parent = atomic::folder(out);
    let holder = tempfile::tempdir_in(parent).map_err(|e| Error::io(parent, e))?;
    let staging = holder.path().join("model");
    let xl = Checkpoint::open(file)?.kind == Kind::Sdxl;
    let mut index = json!({
        "_class_name": if xl { "StableDiffusionXLPipeline" } else { "StableDiffusionPipeline" },
        "_diffusers_version": "0.42.1",
    });
    if xl {
        index[FORCES_ZEROS] = Checkpoint::open(file)?.forces_zeros().into();
    }
    let folder = |name: &str| {
        let path = staging.join(name);
        std::fs::create_dir_all(&path).map_err(|e| Error::io(&path, e)).map(|()| path)
    };
    let put = |path: &Path, value: &Value| {
        let text = serde_json::to_string_pretty(value).expect("a value is JSON") + "\n";
        atomic::write_bytes(path, text.as_bytes())
    };
    let mut count = 0;
    for component in NETWORKS.into_iter().filter(|name| xl || *name != "text_encoder_2") {
        let checkpoint = Checkpoint::open(file)?;
        let config = checkpoint.config(component)?;
        let (file, sources) = checkpoint.into_component(component)?;
        let mut tensors = Vec::new();
        for (name, source) in &sources {
            let tensor = source.take(&file.weight(&source.key)?, file.path())?;
            tensors.push((name.clone(), cast(flattened(component, name, tensor), dtype)));
        }
        count += tensors.len();
        let (stem, class) = match component {
            "unet" => ("diffusion_pytorch_model", ["diffusers", "UNet2DConditionModel"]),
            "vae" => ("diffusion_pytorch_model", ["diffusers", "AutoencoderKL"]),
            "text_encoder" => ("model", ["transformers", "CLIPTextModel"]),
            _ => ("model", ["transformers", "CLIPTextModelWithProjection"]),
        };
        let place = folder(component)?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::write(&place.join(format!("{stem}.safetensors")), &tensors, &metadata)?;
        put(&place.join("config.json"), &config)?;
        index[component] = json!(class);
    }
    let checkpoint = Checkpoint::open(file)?;
    let scheduler = checkpoint.config("scheduler")?;
    index["scheduler"] = json!(["diffusers", scheduler["_class_name"]]);
    put(&folder("scheduler")?.join("scheduler_config.json"), &scheduler)?;
    for name in ["tokenizer", "tokenizer_2"].into_iter().filter(|name| xl || *name == "tokenizer") {
        let place = folder(name)?;
        put(&place.join("tokenizer_config.json"), &checkpoint.config(name)?)?;
        put(&place.join("vocab.json"), &json!(clip_vocabulary::ids()))?;
        atomic::write_bytes(&place.join("merges.txt"), clip_vocabulary::MERGES.as_bytes())?;
        index[name] = json!(["transformers", "CLIPTokenizer"]);
    }
    put(&staging.join("model_index.json"), &index)?;
    // What was written is a model.
    ModelDir::open(&staging)?;
    json_files::read::<Value>(&staging.join("model_index.json"))?;
    std::fs::rename(&staging, out).map_err(|e| Error::io(out, e))?;
    Ok(count)
}

const HF: &str = "cond_stage_model.transformer.";
const OPEN_CLIP: &str = "cond_stage_model.model.";
const XL_HF: &str = "conditioner.embedders.0.transformer.";
const XL_OPEN_CLIP: &str = "conditioner.embedders.1.model.";

fn read(folder: &Path, dtype: Option<DType>) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    for path in weight_files(folder)? {
        let file = Safetensors::open(&path)?;
        for name in file.names().filter(|name| !name.ends_with("position_ids")) {
            tensors.insert(name.to_owned(), cast(file.weight(name)?, dtype));
        }
    }
    Ok(tensors)
}

fn cast(tensor: Tensor, dtype: Option<DType>) -> Tensor {
    match dtype {
        Some(dtype) if tensor.dtype() != DType::I64 => tensor.cast(dtype),
        _ => tensor,
    }
}

/// The VAE's attention is made of convolutions in checkpoints and of linear layers in folders.
fn flattened(component: &str, name: &str, tensor: Tensor) -> Tensor {
    let attends = component == "vae" && name.contains(".attentions.") && tensor.shape().len() > 2;
    match (attends, tensor.shape()) {
        (true, &[rows, columns, ..]) => tensor.with_shape(&[rows, columns]),
        _ => tensor,
    }
}

fn unet(tensors: Tensors, refuse: &dyn Fn(&str) -> Error) -> Result<Tensors> {
    let modules: Vec<String> = tensors.keys().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned())).collect();
    let layout = sgm::Layout::of(modules.iter().map(String::as_str));
    let mut named = Tensors::new();
    for (name, tensor) in tensors {
        let (module, parameter) = name.rsplit_once('.').ok_or_else(|| refuse(&name))?;
        let place = match module {
            "conv_norm_out" => Some("out.0".into()),
            _ => layout.ldm_name(module),
        };
        let place = place.ok_or_else(|| refuse(&name))?;
        named.insert(format!("model.diffusion_model.{place}.{parameter}"), tensor);
    }
    Ok(named)
}

fn vae(tensors: Tensors, refuse: &dyn Fn(&str) -> Error) -> Result<Tensors> {
    let up = |name: &String| name.strip_prefix("decoder.up_blocks.")?.split('.').next()?.parse::<u8>().ok();
    let levels = tensors.keys().filter_map(up).max().map_or(0, |last| usize::from(last) + 1);
    let mut named = Tensors::new();
    for (name, tensor) in tensors {
        let place = vae_name(&name, levels).ok_or_else(|| refuse(&name))?;
        let tensor = match *tensor.shape() {
            [rows, columns] => tensor.with_shape(&[rows, columns, 1, 1]),
            _ => tensor,
        };
        named.insert(format!("first_stage_model.{place}"), tensor);
    }
    Ok(named)
}

fn vae_name(name: &str, levels: usize) -> Option<String> {
    const MIDDLE: [(&str, &str); 13] = [
        ("resnets.0.", "block_1."),
        ("resnets.1.", "block_2."),
        ("attentions.0.group_norm.", "attn_1.norm."),
        ("attentions.0.to_q.", "attn_1.q."),
        ("attentions.0.to_k.", "attn_1.k."),
        ("attentions.0.to_v.", "attn_1.v."),
        ("attentions.0.to_out.0.", "attn_1.proj_out."),
        // Folders of before diffusers 0.18.
        ("attentions.0.query.", "attn_1.q."),
        ("attentions.0.key.", "attn_1.k."),
        ("attentions.0.value.", "attn_1.v."),
        ("attentions.0.proj_attn.", "attn_1.proj_out."),
        ("conv_in.", "conv_in."),
        ("conv_out.", "conv_out."),
    ];
    let shortcut = |name: String| name.replace(".conv_shortcut.", ".nin_shortcut.");
    let (side, rest) = name.split_once('.')?;
    if !matches!(side, "encoder" | "decoder") {
        return matches!(side, "quant_conv" | "post_quant_conv").then(|| name.into());
    }
    if let Some(rest) = rest.strip_prefix("conv_norm_out.") {
        return Some(format!("{side}.norm_out.{rest}"));
    }
    if rest.starts_with("conv_in.") || rest.starts_with("conv_out.") {
        return Some(name.into());
    }
    if let Some(rest) = rest.strip_prefix("mid_block.") {
        let (old, new) = MIDDLE.iter().find(|(old, _)| rest.starts_with(old))?;
        return Some(shortcut(format!("{side}.mid.{new}{}", &rest[old.len()..])));
    }
    let (blocks, rest) = rest.split_once('.')?;
    let (block, rest) = rest.split_once('.')?;
    let block: usize = block.parse().ok()?;
    let (direction, level) = match blocks {
        "down_blocks" => ("down", block),
        "up_blocks" => ("up", levels.checked_sub(block + 1)?),
        _ => return None,
    };
    for sampler in ["downsample", "upsample"] {
        if let Some(parameter) = rest.strip_prefix(&format!("{sampler}rs.0.")) {
            return Some(format!("{side}.{direction}.{level}.{sampler}.{parameter}"));
        }
    }
    let rest = rest.strip_prefix("resnets.")?;
    Some(shortcut(format!("{side}.{direction}.{level}.block.{rest}")))
}

/// Names with the level `text_model.`, which newer folders leave out.
fn levelled(name: &str) -> String {
    if name.starts_with("text_") { name.into() } else { format!("text_model.{name}") }
}

fn hf_encoder(tensors: Tensors, prefix: &str) -> Tensors {
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{}", levelled(&name)), tensor)).collect()
}

fn open_clip(tensors: Tensors, prefix: &str, refuse: &dyn Fn(&str) -> Error) -> Result<Tensors> {
    const WHOLE: [(&str, &str); 5] = [
        ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.final_layer_norm.weight", "ln_final.weight"),
        ("text_model.final_layer_norm.bias", "ln_final.bias"),
        ("text_projection.weight", "text_projection"),
    ];
    const PARTS: [(&str, &str); 5] = [
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
        ("self_attn.out_proj.", "attn.out_proj."),
    ];
    let tensors: Tensors = tensors.into_iter().map(|(name, tensor)| (levelled(&name), tensor)).collect();
    let mut named = Tensors::new();
    for (name, tensor) in &tensors {
        let put = match WHOLE.iter().find(|(old, _)| old == name) {
            Some((_, "text_projection")) => Some(("text_projection".to_owned(), turned(tensor))),
            Some((_, new)) => Some(((*new).to_owned(), tensor.clone())),
            None => {
                let rest = name.strip_prefix("text_model.encoder.layers.").and_then(|rest| rest.split_once('.'));
                let (layer, rest) = rest.ok_or_else(|| refuse(name))?;
                let at = format!("transformer.resblocks.{layer}");
                if let Some(parameter) = rest.strip_prefix("self_attn.q_proj.") {
                    let part = |x: &str| {
                        let name = format!("text_model.encoder.layers.{layer}.self_attn.{x}_proj.{parameter}");
                        tensors.get(&name).ok_or_else(|| refuse(&name))
                    };
                    Some((format!("{at}.attn.in_proj_{parameter}"), fused([tensor, part("k")?, part("v")?])))
                } else if rest.starts_with("self_attn.k_proj.") || rest.starts_with("self_attn.v_proj.") {
                    // With the query.
                    None
                } else {
                    let (old, new) = PARTS.iter().find(|(old, _)| rest.starts_with(old)).ok_or_else(|| refuse(name))?;
                    Some((format!("{at}.{new}{}", &rest[old.len()..]), tensor.clone()))
                }
            }
        };
        named.extend(put.map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }
    Ok(named)
}

/// Three tensors as one, row after row.
fn fused(parts: [&Tensor; 3]) -> Tensor {
    let mut shape = parts[0].shape().to_vec();
    if let Some(rows) = shape.first_mut() {
        *rows = parts.iter().map(|part| part.shape()[0]).sum();
    }
    let values: Vec<f64> = parts.iter().flat_map(|part| part.reals::<f64>().into_owned()).collect();
    Tensor::from_reals(values, &shape, parts[0].dtype())
}

/// `[a, b]` as `[b, a]`.
fn turned(x: &Tensor) -> Tensor {
    let &[rows, columns] = x.shape() else { return x.clone() };
    let from = x.reals::<f64>();
    let values: Vec<f64> =
        (0..columns).flat_map(|j| (0..rows).map(move |i| (i, j))).map(|(i, j)| from[i * columns + j]).collect();
    Tensor::from_reals(values, &[columns, rows], x.dtype())
}
