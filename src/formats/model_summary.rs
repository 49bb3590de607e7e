//! What is in a model: a folder in the layout of diffusers, or a single-file checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::checkpoint::summary::ComponentSummary;
use super::component;
use super::model_dir::{Family, ModelDir};
use super::safetensors::Safetensors;
use crate::error::{Error, Result};

/// What `selma inspect` prints of a model folder.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub model: String,
    pub family: &'static str,
    /// The sampler class that the model names.
    pub scheduler: String,
    /// `epsilon` or `v_prediction`.
    pub prediction: String,
    /// Pixels of a side that it was made for.
    pub side: u64,
    /// Width of the text states that the UNet reads.
    pub context: u64,
    pub components: BTreeMap<String, ComponentSummary>,
}

/// Sums up a model folder from its configurations and the headers of its weight files.
///
/// # Errors
/// As [`ModelDir::open`], [`component::weight_files`] and [`Safetensors::open`]; [`Error::File`] for a UNet without
/// `sample_size` or `cross_attention_dim`.
pub fn inspect(root: &Path) -> Result<Summary> {
    let files = ModelDir::open(root)?;
    let mut components = BTreeMap::new();
    for (name, place) in [
        ("unet", Some(&files.unet)),
        ("vae", Some(&files.vae)),
        ("text_encoder", Some(&files.text_encoder)),
        ("text_encoder_2", files.text_encoder_2.as_ref()),
    ] {
        if let Some(place) = place {
            components.insert(name.to_string(), of_folder(place)?);
        }
    }
    let path = files.unet.join("config.json");
    let [unet, vae] = [component::json(&path)?, component::json(&files.vae.join("config.json"))?];
    let number = |key: &str| {
        let value = unet[key].as_u64();
        value.ok_or_else(|| Error::file(&path, format!("`{key}` is {}, expected a number", unet[key])))
    };
    // Each block of the VAE but the last halves the side.
    let blocks = vae["block_out_channels"].as_array().map_or(1, Vec::len).clamp(1, 16);
    let context = number("cross_attention_dim")?;
    let scheduler = component::json(&files.scheduler.join("scheduler_config.json"))?;
    Ok(Summary {
        model: root.display().to_string(),
        family: match (files.family, context) {
            (Family::StableDiffusionXl, _) => "SDXL",
            (_, 768) => "SD 1.x",
            (_, 1024) => "SD 2.x",
            _ => "SD of another size",
        },
        scheduler: files.scheduler_class,
        prediction: scheduler["prediction_type"].as_str().unwrap_or("epsilon").into(),
        side: number("sample_size")?.saturating_mul(1 << (blocks - 1)),
        context,
        components,
    })
}

fn of_folder(folder: &Path) -> Result<ComponentSummary> {
    let mut summary = ComponentSummary::default();
    for path in component::weight_files(folder)? {
        let file = Safetensors::open(&path)?;
        for name in file.names() {
            let values: usize = file.shape(name).unwrap_or_default().iter().product();
            summary.tensors += 1;
            summary.values += values;
            *summary.types.entry(file.type_name(name)).or_default() += values;
        }
    }
    Ok(summary)
}
