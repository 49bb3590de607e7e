//! What a LoRA needs to know of its base model: the names of the modules that have a weight, and the weights' shapes.
//! Only the headers of the model's files are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;

/// component -> module -> shape of its weight as in files: `[out, in]` or `[out, in, kh, kw]`.
pub type BaseModules = BTreeMap<String, BTreeMap<String, Vec<usize>>>;

/// The parts of a model that a LoRA can change.
pub const COMPONENTS: [&str; 3] = ["unet", "text_encoder", "text_encoder_2"];

/// Reads the module names and weight shapes of a diffusers folder.
///
/// # Errors
/// [`Error::File`] if the folder has no UNet, or a header cannot be read.
pub fn modules(model: &Path) -> Result<BaseModules> {
    let mut all = BaseModules::new();
    for component in COMPONENTS {
        let folder = model.join(component);
        if !folder.is_dir() {
            continue;
        }
        let mut found = BTreeMap::new();
        for file in weight_files(&folder)? {
            let weights = Safetensors::open(&file)?;
            for name in weights.names() {
                let shape = weights.shape(name).unwrap_or_default();
                if let Some(module) = name.strip_suffix(".weight")
                    && matches!(shape.len(), 2 | 4)
                {
                    found.insert(canonical(component, module), shape.to_vec());
                }
            }
        }
        all.insert(component.to_string(), found);
    }
    if !all.contains_key("unet") {
        return Err(Error::file(
            model,
            "there is no unet/ folder in it: a model in the diffusers layout is needed",
        ));
    }
    Ok(all)
}

/// The name that this crate uses for a module: text encoders always have their `text_model.` level.
pub fn canonical(component: &str, module: &str) -> String {
    let flat = ["encoder.", "embeddings.", "final_layer_norm"];
    if component != "unet" && flat.iter().any(|start| module.starts_with(start)) {
        return format!("text_model.{module}");
    }
    module.to_string()
}

/// The weight files of one component: the full-precision file or its shards, else the `.fp16` variant.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    for stem in ["diffusion_pytorch_model", "model"] {
        for variant in ["", ".fp16"] {
            let single = folder.join(format!("{stem}{variant}.safetensors"));
            if single.is_file() {
                return Ok(vec![single]);
            }
            let index = folder.join(format!("{stem}.safetensors.index{variant}.json"));
            if index.is_file() {
                return shards(folder, &index);
            }
        }
    }
    Err(Error::file(
        folder,
        "no diffusion_pytorch_model.safetensors or model.safetensors in it (pickle files are not read: save the model \
         with safe_serialization=True)",
    ))
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(index).map_err(|e| Error::io(index, e))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::file(index, e.to_string()))?;
    let map = json["weight_map"]
        .as_object()
        .ok_or_else(|| Error::file(index, "has no weight_map"))?;
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if let Some(name) = names.iter().find(|n| n.contains(['/', '\\'])) {
        let message = format!("weight_map names {name}, which is not a file of this folder");
        return Err(Error::file(index, message));
    }
    Ok(names.into_iter().map(|n| folder.join(n)).collect())
}
