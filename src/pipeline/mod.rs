//! Text to image: prompts to text states, noise to latents, latents to pixels.

mod denoise;
mod prompt;

pub use denoise::{Denoising, Guidance};
pub use prompt::Conditions;

use std::collections::BTreeMap;
use std::path::Path;

use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::formats::model_dir::ModelDir;
use crate::lora::attach::attach_all;
use crate::lora::{Expert, Factors};
use crate::nn::{AutoencoderKl, ClipText, Config, UNet};
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
    ///
    /// # Errors
    /// [`Error::File`] naming the file and the key or tensor that does not fit.
    pub fn load(dir: &Path, vocab: Option<&Path>, dtype: DType) -> Result<Self> {
        let files = ModelDir::open(dir)?;
        let scheduler = Config::open(&files.scheduler.join("scheduler_config.json"))?.into_value();
        let encoder = |tokenizer: &Path, model: &Path| -> Result<TextEncoder> {
            Ok(TextEncoder {
                tokenizer: Tokenizer::load_with_vocab(tokenizer, vocab.unwrap_or(tokenizer))?,
                model: ClipText::load(model, dtype)?,
            })
        };
        let mut encoders = vec![encoder(&files.tokenizer, &files.text_encoder)?];
        if let (Some(tokenizer), Some(model)) = (&files.tokenizer_2, &files.text_encoder_2) {
            encoders.push(encoder(tokenizer, model)?);
        }
        Ok(Self {
            unet: UNet::load(&files.unet, dtype)?,
            vae: AutoencoderKl::load(&files.vae, dtype)?,
            encoders,
            scheduler,
            force_zeros_for_empty_prompt: files.force_zeros_for_empty_prompt,
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
