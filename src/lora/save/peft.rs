//! peft's adapter folders: `adapter_model.safetensors` beside `adapter_config.json`, one folder a component.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{commonest, like_convolution, number};
use crate::error::{Error, Result};
use crate::formats::{atomic, safetensors};
use crate::lora::expert::{Expert, LoraFactors};

/// Writes an adapter folder; where the expert changes several components, a folder of such folders (`unet`,
/// `text_encoder`, ..), each for `PeftModel.from_pretrained` of its network. Nothing is left under `path` if it fails.
///
/// # Errors
/// [`Error::File`] if `path` exists already; [`Error::Io`].
pub fn peft(path: &Path, expert: &Expert) -> Result<()> {
    if path.exists() {
        return Err(Error::file(path, "exists already; name a new folder for the adapter"));
    }
    let io = |e| Error::io(path, e);
    let holder = tempfile::tempdir_in(atomic::folder(path)).map_err(io)?;
    // A folder inside of the temporary one: that one is private to its owner.
    let staging = holder.path().join("adapter");
    for (component, modules) in &expert.components {
        let folder = match expert.components.len() {
            1 => staging.clone(),
            _ => staging.join(component),
        };
        std::fs::create_dir_all(&folder).map_err(io)?;
        adapter(&folder, modules)?;
    }
    std::fs::rename(&staging, path).map_err(io)
}

fn adapter(folder: &Path, modules: &BTreeMap<String, LoraFactors>) -> Result<()> {
    let mut tensors = Vec::new();
    for (module, factors) in modules {
        let at = format!("base_model.model.{module}");
        let up = like_convolution(factors.b.clone(), factors);
        tensors.push((format!("{at}.lora_A.weight"), factors.a.clone()));
        tensors.push((format!("{at}.lora_B.weight"), up));
        tensors.extend(super::magnitude(&at, factors, folder)?);
    }
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::write(&folder.join("adapter_model.safetensors"), &tensors, &metadata)?;
    let mut text = format!("{:#}", Value::from(config(modules)));
    text.push('\n');
    atomic::write_bytes(&folder.join("adapter_config.json"), text.as_bytes())
}

/// peft's LoraConfig: the commonest rank and alpha, and what differs from them by module.
pub fn config(modules: &BTreeMap<String, LoraFactors>) -> Map<String, Value> {
    let rank = commonest(modules.values().map(|f| f.rank() as f64));
    let alpha = commonest(modules.values().map(|f| f.alpha));
    let mut ranks = Map::new();
    let mut alphas = Map::new();
    for (module, factors) in modules {
        if factors.rank() as f64 != rank {
            ranks.insert(module.clone(), json!(factors.rank()));
        }
        if factors.alpha != alpha {
            alphas.insert(module.clone(), number(factors.alpha));
        }
    }
    let names: Vec<&String> = modules.keys().collect();
    let config = json!({
        "alpha_pattern": alphas,
        "bias": "none",
        "lora_alpha": number(alpha),
        "lora_bias": false,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank as u64,
        "rank_pattern": ranks,
        "target_modules": names,
        "use_dora": modules.values().all(|factors| factors.magnitude.is_some()),
        "use_rslora": false,
    });
    match config {
        Value::Object(keys) => keys,
        _ => unreachable!("it is written as an object"),
    }
}
