//! Writing an expert in the layouts that other programs load. No clock and no random field: equal experts give equal
//! bytes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, json};

use super::base::BaseModules;
use super::expert::{Expert, Factors};
use super::families::Family;
use super::sgm;
use crate::error::Result;
use crate::formats::safetensors;
use crate::tensor::{DType, Tensor};

/// Writes the diffusers layout: `unet.P.lora_A.weight` in f32, alpha in the header's `lora_adapter_metadata`.
///
/// Text encoders are written with the scale folded into B: recent diffusers releases cannot load a file whose metadata
/// names their modules, and load the same tensors without it.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn diffusers(path: &Path, expert: &Expert, extra: &BTreeMap<String, String>) -> Result<()> {
    let mut tensors = Vec::new();
    for (component, module, factors) in expert.iter() {
        let up = if component == "unet" {
            factors.up.clone()
        } else {
            times(&factors.up, factors.scale())
        };
        let at = format!("{component}.{module}");
        tensors.push((format!("{at}.lora_A.weight"), factors.down.clone()));
        tensors.push((format!("{at}.lora_B.weight"), like_convolution(up, factors)));
    }
    let mut metadata = extra.clone();
    metadata.insert("format".into(), "pt".into());
    if let Some(unet) = expert.components.get("unet") {
        metadata.insert("lora_adapter_metadata".into(), adapter_metadata(unet));
    }
    safetensors::write(path, &tensors, &metadata)
}

/// peft's configuration, flattened with the component's prefix as diffusers does it.
fn adapter_metadata(unet: &BTreeMap<String, Factors>) -> String {
    let rank = commonest(unet.values().map(|f| f.rank() as f64));
    let alpha = commonest(unet.values().map(|f| f.alpha));
    let mut ranks = Map::new();
    let mut alphas = Map::new();
    for (module, factors) in unet {
        if factors.rank() as f64 != rank {
            ranks.insert(module.clone(), json!(factors.rank()));
        }
        if factors.alpha != alpha {
            alphas.insert(module.clone(), number(factors.alpha));
        }
    }
    let modules: Vec<&String> = unet.keys().collect();
    json!({
        "unet.alpha_pattern": alphas,
        "unet.bias": "none",
        "unet.lora_alpha": number(alpha),
        "unet.lora_bias": false,
        "unet.lora_dropout": 0.0,
        "unet.peft_type": "LORA",
        "unet.r": rank as u64,
        "unet.rank_pattern": ranks,
        "unet.target_modules": modules,
        "unet.use_dora": false,
        "unet.use_rslora": false,
    })
    .to_string()
}

/// Writes the kohya layout: underscored names, `.alpha` tensors, `ss_` metadata. SDXL UNets get their LDM block names, as
/// sd-scripts writes them. `base` tells the model's blocks; without it the published families' are assumed.
///
/// One alpha serves the whole file, the rest is folded into `lora_up`: diffusers mis-scales kohya files whose alphas differ.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn kohya(path: &Path, expert: &Expert, base: Option<&BaseModules>, extra: &BTreeMap<String, String>) -> Result<()> {
    let family = super::inspect::family(expert);
    let two_encoders = family == Some(Family::Sdxl) || base.is_some_and(|b| b.contains_key("text_encoder_2"));
    let layout = two_encoders.then(|| match base.and_then(|b| b.get("unet")) {
        Some(unet) => sgm::Layout::of(unet.keys().map(String::as_str)),
        None => sgm::Layout::of(Family::Sdxl.modules()["unet"].keys().map(String::as_str)),
    });
    let alpha = commonest(expert.iter().map(|(_, _, f)| f.alpha));
    let mut tensors = Vec::new();
    for (component, module, factors) in expert.iter() {
        let prefix = match (component, two_encoders) {
            ("unet", _) => "lora_unet",
            ("text_encoder_2", _) => "lora_te2",
            (_, true) => "lora_te1",
            (_, false) => "lora_te",
        };
        let ldm = layout
            .as_ref()
            .filter(|_| component == "unet")
            .and_then(|l| l.ldm_name(module));
        let stem = format!("{prefix}_{}", ldm.as_deref().unwrap_or(module).replace('.', "_"));
        let up = times(&factors.up, factors.alpha / alpha);
        tensors.push((format!("{stem}.alpha"), Tensor::full(&[], alpha, DType::F32)));
        tensors.push((format!("{stem}.lora_down.weight"), factors.down.clone()));
        tensors.push((format!("{stem}.lora_up.weight"), like_convolution(up, factors)));
    }
    let ranks: Vec<usize> = expert.iter().map(|(_, _, f)| f.rank()).collect();
    let one_rank = ranks.iter().all(|r| *r == ranks[0]) && !ranks.is_empty();
    let mut metadata = extra.clone();
    let mut put = |key: &str, value: String| drop(metadata.insert(key.into(), value));
    put("format", "pt".into());
    put(
        "ss_v2",
        if family == Some(Family::Sd2) { "True" } else { "False" }.into(),
    );
    if let Some(family) = family {
        put("ss_base_model_version", family.kohya_version().into());
    }
    put("ss_network_module", "networks.lora".into());
    put(
        "ss_network_dim",
        if one_rank {
            ranks[0].to_string()
        } else {
            "Dynamic".into()
        },
    );
    put("ss_network_alpha", number(alpha).to_string());
    put("ss_network_args", "{}".into());
    safetensors::write(path, &tensors, &metadata)
}

/// `up` as `[o, r, 1, 1]` where the module is a convolution.
fn like_convolution(up: Tensor, factors: &Factors) -> Tensor {
    match *factors.down.shape() {
        [r, _, _, _] => up.with_shape(&[factors.outputs(), r, 1, 1]),
        _ => up,
    }
}

fn times(tensor: &Tensor, by: f64) -> Tensor {
    if by == 1.0 {
        return tensor.clone();
    }
    let scaled = tensor.reals::<f64>().iter().map(|x| x * by).collect();
    Tensor::from_reals::<f64>(scaled, tensor.shape(), DType::F32)
}

/// The value that occurs most often, the larger one where two occur as often.
fn commonest(values: impl Iterator<Item = f64>) -> f64 {
    let mut counts: Vec<(f64, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(v, _)| *v == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    counts.sort_by(|a, b| a.1.cmp(&b.1).then(a.0.total_cmp(&b.0)));
    counts.last().map_or(1.0, |(value, _)| *value)
}

/// Whole numbers without a fraction, as the other tools write them.
fn number(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}
