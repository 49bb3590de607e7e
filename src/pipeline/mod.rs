//! Text to image: prompts to text states, noise to latents, latents to pixels.

mod denoise;
mod prompt;

pub use denoise::{Denoising, Guidance};
pub use prompt::Conditions;

use std::collections::BTreeMap;
use std::path::Path;

use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::lora::attach::attach_all;
use crate::lora::{Expert, Factors};
use crate::nn::{AutoencoderKl, ClipText, UNet};
use crate::tensor::DType;

/// A whole Stable Diffusion of the 1.x, 2.x or XL family, from a folder in the layout of diffusers.
pub struct StableDiffusion {
    pub unet: UNet,
    pub vae: AutoencoderKl,
    pub encoders: Vec<TextEncoder>,
    /// The model's own `scheduler/scheduler_config.json`.
    pub scheduler: serde_json::Value,
    /// SDXL: a missing negative prompt is all zeros, not the empty string.
    pub force_zeros_for_empty_prompt: bool,
    pub dtype: DType,
}

/// A tokenizer and the encoder that reads its ids.
pub struct TextEncoder {
    pub tokenizer: Tokenizer,
    pub model: ClipText,
}

impl StableDiffusion {
    /// Loads `dir`; vocabularies come from `vocab` where given, else from the model's tokenizer folders.
    pub fn load(dir: &Path, vocab: Option<&Path>, dtype: DType) -> Result<Self> {
        let index = read_json(&dir.join("model_index.json"))?;
        let mut encoders = Vec::new();
        for suffix in ["", "_2"] {
            if index
                .get(format!("text_encoder{suffix}"))
                .is_some_and(|v| !v[0].is_null())
            {
                let folder = dir.join(format!("tokenizer{suffix}"));
                encoders.push(TextEncoder {
                    tokenizer: Tokenizer::load_with_vocab(&folder, vocab.unwrap_or(&folder))?,
                    model: ClipText::load(&dir.join(format!("text_encoder{suffix}")), dtype)?,
                });
            }
        }
        if encoders.is_empty() {
            return Err(Error::file(
                dir.join("model_index.json"),
                "no text_encoder: not a Stable Diffusion 1, 2 or XL model",
            ));
        }
        Ok(Self {
            unet: UNet::load(&dir.join("unet"), dtype)?,
            vae: AutoencoderKl::load(&dir.join("vae"), dtype)?,
            encoders,
            scheduler: read_json(&dir.join("scheduler/scheduler_config.json"))?,
            force_zeros_for_empty_prompt: index["force_zeros_for_empty_prompt"].as_bool().unwrap_or(false),
            dtype,
        })
    }

    /// Adds LoRA experts to the UNet and the text encoders; each keeps its own strength.
    ///
    /// # Errors
    /// If a module of an expert is not in the model, or does not fit it.
    pub fn apply(&mut self, experts: &[Expert]) -> Result<()> {
        let mut components: BTreeMap<&str, BTreeMap<String, Vec<&Factors>>> = BTreeMap::new();
        for (component, module, factors) in experts.iter().flat_map(Expert::iter) {
            components
                .entry(component)
                .or_default()
                .entry(module.into())
                .or_default()
                .push(factors);
        }
        for (component, modules) in &components {
            match *component {
                "unet" => attach_all(modules, self.dtype, |f| self.unet.visit(f))?,
                "text_encoder" => attach_all(modules, self.dtype, |f| self.encoders[0].model.visit(f))?,
                "text_encoder_2" if self.is_xl() => {
                    attach_all(modules, self.dtype, |f| self.encoders[1].model.visit(f))?
                }
                other => {
                    return Err(Error::Failed(format!(
                        "a LoRA has modules for {other}, which this model lacks"
                    )));
                }
            }
        }
        Ok(())
    }

    pub fn is_xl(&self) -> bool {
        self.encoders.len() == 2
    }
}

/// A scheduler configuration as diffusers' pipelines use it: StableDiffusionPipeline overwrites two outdated values,
/// StableDiffusionXLPipeline none.
pub fn pipeline_config(config: &serde_json::Value, is_xl: bool) -> serde_json::Value {
    let mut config = config.clone();
    if !is_xl {
        config["steps_offset"] = 1.into();
        config["clip_sample"] = false.into();
    }
    config
}

/// A JSON file, with its name in the error.
pub fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, e.to_string()))
}
