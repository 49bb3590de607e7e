//! The alpha of modules that have no `.alpha` tensor: from `lora_adapter_metadata` of a diffusers file, or from
//! `adapter_config.json` beside a peft file.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::target::ends_in;
use crate::error::{Error, Result};
use crate::formats::json;

/// The settings of each component's adapter.
#[derive(Debug, Default)]
pub struct AdapterConfig {
    file: std::path::PathBuf,
    /// component ("" for one that is implied) -> key -> value.
    components: BTreeMap<String, BTreeMap<String, Value>>,
}

impl AdapterConfig {
    /// Reads what `header` says, or an `adapter_config.json` in the folder of `file`.
    ///
    /// # Errors
    /// [`Error::File`] where the JSON is broken, or names an adapter that is not a plain LoRA.
    pub fn read(file: &Path, header: &BTreeMap<String, String>) -> Result<Self> {
        let mut config = Self { file: file.into(), ..Self::default() };
        if let Some(text) = header.get("lora_adapter_metadata") {
            let flat: BTreeMap<String, Value> = json::parse(text.as_bytes())
                .map_err(|e| Error::file(file, format!("lora_adapter_metadata in the header: {e}")))?;
            for (key, value) in flat {
                config.put(&key, value);
            }
        } else {
            // Some trainers put "unet.lora_alpha" straight into the header.
            for (key, text) in header {
                if key.ends_with(".lora_alpha") || key.ends_with(".use_rslora") {
                    let value = serde_json::from_str(&text.to_lowercase()).unwrap_or(Value::Null);
                    config.put(key, value);
                }
            }
        }
        let beside = file.with_file_name("adapter_config.json");
        if config.components.is_empty() && beside.is_file() {
            let keys = json::read(&beside)?;
            config.file = beside;
            config.components.insert(String::new(), keys);
        }
        config.refuse_other_adapters()?;
        Ok(config)
    }

    fn put(&mut self, key: &str, value: Value) {
        if let Some((component, key)) = key.split_once('.') {
            let keys = self.components.entry(component.to_string()).or_default();
            keys.insert(key.to_string(), value);
        }
    }

    fn refuse_other_adapters(&self) -> Result<()> {
        for keys in self.components.values() {
            let is = |key: &str| keys.get(key).and_then(Value::as_bool).unwrap_or(false);
            let kind = keys.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
            if kind != "LORA" || is("fan_in_fan_out") || is("lora_bias") {
                let what = if kind != "LORA" { kind } else { "transposed weights or LoRA biases" };
                return Err(Error::file(&self.file, format!("the adapter uses {what}: not available in this version")));
            }
        }
        Ok(())
    }

    /// Whether the adapter of a component is said to be DoRA.
    pub fn decomposes(&self, component: &str) -> bool {
        let keys = self.components.get(component).or_else(|| self.components.get(""));
        keys.and_then(|keys| keys.get("use_dora")).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The alpha that makes `alpha / rank` the trained scale; none where the file says nothing.
    ///
    /// # Errors
    /// [`Error::File`] for a value that is not a number, or an `alpha_pattern` that is a regular expression.
    pub fn alpha(&self, component: &str, module: &str, rank: usize) -> Result<Option<f64>> {
        let Some(keys) = self.components.get(component).or_else(|| self.components.get("")) else {
            return Ok(None);
        };
        let mut alpha = keys.get("lora_alpha");
        if let Some(patterns) = keys.get("alpha_pattern").and_then(Value::as_object) {
            for (pattern, value) in patterns {
                if self.pattern_matches(pattern, module)? {
                    alpha = Some(value);
                    break;
                }
            }
        }
        let Some(alpha) = alpha.filter(|a| !a.is_null()) else {
            return Ok(None);
        };
        let alpha = alpha.as_f64().filter(|a| *a != 0.0).ok_or_else(|| {
            Error::file(&self.file, format!("{component}.lora_alpha is {alpha}; expected a number above 0"))
        })?;
        // Rank-stabilised LoRA scales by alpha / sqrt(rank).
        let rslora = keys.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Ok(Some(if rslora { alpha * (rank as f64).sqrt() } else { alpha }))
    }

    fn pattern_matches(&self, pattern: &str, module: &str) -> Result<bool> {
        let plain = pattern.trim_start_matches('^').trim_end_matches('$').replace("\\.", ".");
        if plain.contains(['*', '+', '?', '(', '[', '|', '\\', '{']) {
            return Err(Error::file(
                &self.file,
                format!("alpha_pattern {pattern:?} is a regular expression: not available in this version"),
            ));
        }
        let whole = pattern.starts_with('^');
        Ok(if whole { module == plain } else { ends_in(module, &plain) })
    }
}
