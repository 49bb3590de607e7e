//! What a written LoRA says of its making, for its header.

use std::collections::BTreeMap;
use std::path::Path;

use super::file::Loaded;
use super::merge::{Merged, Options};
use crate::error::Result;
use crate::formats::{content_hash, digest, model_dir};

/// What a merge was made of. Only base names of paths, for privacy.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn of_merge(loaded: &[Loaded], weights: &[f64], options: &Options) -> Result<BTreeMap<String, String>> {
    let mut inputs = Vec::new();
    let mut names = Vec::new();
    for (lora, weight) in loaded.iter().zip(weights) {
        let name = lora.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sha256 = digest::file(&lora.path)?;
        inputs.push(serde_json::json!({ "file": name, "sha256": sha256, "weight": weight }));
        names.push((name.trim_end_matches(".safetensors").to_string(), sha256));
    }
    // Trainers call every file alike: those of one name are told apart by their hashes.
    let often = |name: &str| names.iter().filter(|(other, _)| other == name).count() > 1;
    let named = |(name, sha256): &(String, String)| match often(name) {
        true => format!("{name}@{}", &sha256[..8]),
        false => name.clone(),
    };
    let names: Vec<String> = names.iter().map(named).collect();
    let value_name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let method = clap::ValueEnum::to_possible_value(&options.method).map(|v| v.get_name().to_string());
    let mut metadata = BTreeMap::from([
        ("selma.method".to_string(), method.unwrap_or_default()),
        ("selma.inputs".to_string(), serde_json::Value::from(inputs).to_string()),
        ("modelspec.merged_from".to_string(), names.join(",")),
    ]);
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            metadata.insert(format!("selma.{key}"), value);
        }
    };
    put("rank", options.rank.map(|k| k.to_string()));
    put("max_error", options.max_error.map(|x| x.to_string()));
    put("density", options.density.map(|d| d.to_string()));
    put("compat", options.compat.map(|c| value_name(&c)));
    if options.density.is_some() {
        put("seed", Some(options.seed.to_string()));
        put("majority_sign", Some(value_name(&options.majority_sign)));
    }
    Ok(metadata)
}

/// How far a merge is from what was wanted.
pub fn errors(merged: &Merged) -> [(String, String); 2] {
    let number = |x: f64| format!("{x:.3e}");
    [
        ("selma.relative_error".into(), number(merged.relative_error)),
        ("selma.distance_to_sum".into(), number(merged.distance_to_sum)),
    ]
}

/// What tells the base model from others: for a checkpoint the SHA-256 that sd-scripts writes (its first ten characters are the
/// AutoV2 hash of model sites), for a folder a hash of the UNet's files.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn base_model(model: &Path) -> Result<Option<(String, String)>> {
    if model.is_file() {
        return Ok(Some(("ss_new_sd_model_hash".into(), digest::file(model)?)));
    }
    let unet = model.join("unet");
    if !unet.is_dir() {
        return Ok(None);
    }
    Ok(Some(("selma.base_model_hash".into(), content_hash::of_folders(&[unet])?)))
}

/// ModelSpec's word for what a model predicts, where its scheduler says so.
///
/// # Errors
/// [`crate::Error::File`] where the scheduler's configuration is there and cannot be read.
pub fn prediction(model: &Path) -> Result<Option<(String, String)>> {
    let scheduler = model_dir::scheduler_config(model)?;
    let word = match scheduler["prediction_type"].as_str() {
        Some("epsilon") => "epsilon",
        Some("v_prediction") => "v",
        _ => return Ok(None),
    };
    Ok(Some(("modelspec.prediction_type".into(), word.into())))
}
