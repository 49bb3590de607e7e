//! Writing an expert in the layouts that other programs load. No clock and no random field: equal experts give equal
//! bytes.

mod kohya;
mod peft;

pub use kohya::kohya;
pub use peft::peft;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::base::BaseModules;
use super::expert::{Along, Expert, LoraFactors, Magnitude};
use crate::error::{Error, Result};
use crate::formats::{atomic, safetensors};
use crate::tensor::Tensor;

/// The layouts that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// `unet.P.lora_A.weight`, alpha in the header.
    Diffusers,
    /// `lora_unet_P.lora_down.weight` with `.alpha` tensors: sd-scripts, ComfyUI, A1111.
    Kohya,
    /// An adapter folder for peft; with a name in .safetensors, its tensors in one file, as diffusers reads them.
    Peft,
}

/// Writes `expert` in a layout. `extra` goes into the header's metadata; `base` tells the model's blocks (SDXL in kohya's
/// layout; without it the published one's are assumed).
///
/// # Errors
/// [`crate::Error::Io`] where it cannot be written; [`crate::Error::File`] where an adapter folder exists already.
pub fn write(
    layout: Layout,
    path: &Path,
    expert: &Expert,
    base: Option<&BaseModules>,
    extra: &BTreeMap<String, String>,
) -> Result<()> {
    if layout != Layout::Kohya && !expert.vectors.is_empty() {
        let message =
            "it changes norms or biases, for which diffusers' and peft's layouts have no place; write kohya's";
        return Err(Error::file(path, message));
    }
    match layout {
        Layout::Kohya => kohya(path, expert, base, extra),
        Layout::Peft if is_adapter_folder(layout, path) => peft(path, expert),
        Layout::Peft | Layout::Diffusers => diffusers_on(path, expert, base, extra),
    }
}

/// Finds out whether [`fn@write`] can succeed, before the work on what goes there.
///
/// # Errors
/// As [`fn@write`].
pub fn check(layout: Layout, path: &Path) -> Result<()> {
    if is_adapter_folder(layout, path) && path.exists() {
        return Err(Error::file(path, "exists already; name a new folder for the adapter"));
    }
    atomic::check(path)
}

fn is_adapter_folder(layout: Layout, path: &Path) -> bool {
    layout == Layout::Peft && path.extension().is_none_or(|e| e != "safetensors")
}

/// Writes the diffusers layout: `unet.P.lora_A.weight` in f32, alpha in the header's `lora_adapter_metadata`.
///
/// Text encoders are written with the scale folded into B: recent diffusers releases cannot load a file whose metadata
/// names their modules, and load the same tensors without it.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn diffusers(path: &Path, expert: &Expert, extra: &BTreeMap<String, String>) -> Result<()> {
    diffusers_on(path, expert, None, extra)
}

/// The same, where `base` tells the family of the model if the LoRA's own modules do not.
fn diffusers_on(
    path: &Path,
    expert: &Expert,
    base: Option<&BaseModules>,
    extra: &BTreeMap<String, String>,
) -> Result<()> {
    let mut tensors = Vec::new();
    for (component, module, factors) in expert.iter() {
        let up = if component == "unet" { factors.b.clone() } else { times(&factors.b, factors.scale()) };
        let at = format!("{component}.{module}");
        tensors.push((format!("{at}.lora_A.weight"), factors.a.clone()));
        tensors.push((format!("{at}.lora_B.weight"), like_convolution(up, factors)));
        tensors.extend(magnitude(&at, factors, path)?);
    }
    let mut metadata = extra.clone();
    if metadata.contains_key("ss_sd_model_name") {
        kohya::describe(path, expert, base, &mut metadata);
    }
    metadata.insert("format".into(), "pt".into());
    if let Some(unet) = expert.components.get("unet") {
        metadata.insert("lora_adapter_metadata".into(), adapter_metadata(unet));
    }
    safetensors::write(path, &tensors, &metadata)
}

/// DoRA's lengths as peft stores them: `[out]`, of a convolution `[1, out, 1, 1]`.
///
/// # Errors
/// [`Error::File`] for lengths of columns, which peft does not have.
fn magnitude(at: &str, factors: &LoraFactors, path: &Path) -> Result<Option<(String, Tensor)>> {
    let Some(Magnitude { values, along }) = &factors.magnitude else { return Ok(None) };
    if *along == Along::Inputs {
        let message =
            format!("{at} has DoRA lengths of columns (wd_on_out=False), which peft does not know; write kohya's");
        return Err(Error::file(path, message));
    }
    let values = match *factors.a.shape() {
        [_, _, _, _] => values.with_shape(&[1, values.len(), 1, 1]),
        _ => values.clone(),
    };
    Ok(Some((format!("{at}.lora_magnitude_vector"), values)))
}

/// peft's configuration, flattened with the component's prefix as diffusers does it.
fn adapter_metadata(unet: &BTreeMap<String, LoraFactors>) -> String {
    let flat: Map<String, Value> =
        (peft::config(unet).into_iter()).map(|(key, value)| (format!("unet.{key}"), value)).collect();
    Value::from(flat).to_string()
}

/// `up` as `[o, r, 1, 1]` where the module is a convolution.
fn like_convolution(up: Tensor, factors: &LoraFactors) -> Tensor {
    match *factors.a.shape() {
        [r, _, _, _] => up.with_shape(&[factors.outputs(), r, 1, 1]),
        _ => up,
    }
}

fn times(tensor: &Tensor, by: f64) -> Tensor {
    if by == 1.0 {
        return tensor.clone();
    }
    let scaled = tensor.reals::<f64>().iter().map(|x| x * by).collect();
    Tensor::from_reals::<f64>(scaled, tensor.shape(), tensor.dtype())
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
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}
