//! What a LoRA needs to know of its base model: the names of the modules that have a weight, and the weights' shapes.
//! Only the headers of the model's files are read.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, Kind};
use crate::formats::component::Component;

/// component -> module -> shape of its weight as in files: `[out, in]` or `[out, in, kh, kw]`.
pub type BaseModules = BTreeMap<String, BTreeMap<String, Vec<usize>>>;

/// The parts of a model that a LoRA can change.
pub const COMPONENTS: [&str; 3] = ["unet", "text_encoder", "text_encoder_2"];

/// Reads the module names and weight shapes of a diffusers folder or a checkpoint.
///
/// # Errors
/// [`Error::File`] if the folder has no UNet, or a header cannot be read.
pub fn modules(model: &Path) -> Result<BaseModules> {
    let mut all = BaseModules::new();
    for component in COMPONENTS {
        let place = model.join(component);
        let second = component == "text_encoder_2";
        let in_checkpoint = model.is_file() && (!second || Checkpoint::open(model)?.kind == Kind::Sdxl);
        if !place.is_dir() && !in_checkpoint {
            continue;
        }
        let weights = Component::open(&place)?;
        let mut found = BTreeMap::new();
        for name in weights.names() {
            let shape = weights.shape(name).unwrap_or_default();
            if let Some(module) = name.strip_suffix(".weight")
                && matches!(shape.len(), 2 | 4)
            {
                found.insert(canonical(component, module), shape);
            }
        }
        all.insert(component.to_string(), found);
    }
    if !all.contains_key("unet") {
        return Err(Error::file(
            model,
            "there is no unet/ folder in it: a model in the diffusers layout, or a checkpoint, is needed",
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
