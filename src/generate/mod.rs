//! Text to image: prompts to text states, noise to latents, latents to pixels.

pub mod convert;
mod denoise;
pub mod folder;
pub mod generation;
mod generator;
pub mod grid;
pub mod loras;
pub mod parameters;
pub mod plan;
mod prompt;
pub mod request;
mod settings;
pub mod webui;

pub use denoise::{Denoising, Guidance, decode};
pub use generation::Generation;
pub use generator::{Generator, Observer, Source};
pub use prompt::{Conditions, TextEncoder, TextEncoders, TextInput};
pub use request::Request;
pub use settings::Settings;

use std::collections::BTreeMap;
use std::path::Path;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::model_dir::{ModelDir, vae_folder};
use crate::lora::attach::{self, attach_all};
use crate::lora::gate::{Gates, Mixture};
use crate::lora::{Expert, LoraFactors, fold, merge};
use crate::nn::{AutoencoderKl, Config, UNet};
use crate::tensor::{DType, release_pool};

/// A whole Stable Diffusion of the 1.x, 2.x or XL family, from a folder in the layout of diffusers.
pub struct StableDiffusion {
    pub unet: UNet,
    pub vae: AutoencoderKl,
    pub text: TextEncoders,
    /// The model's own `scheduler/scheduler_config.json`.
    pub scheduler: serde_json::Value,
    pub dtype: DType,
    /// Experts on the UNet that a gate weighs anew for each prompt.
    gate: Option<Gated>,
    /// What experts changed in the weights themselves, as it was.
    folded: fold::Originals,
}

/// Experts and their gates.
struct Gated {
    mixture: Mixture,
    gates: Gates,
    /// The pooled text state of the empty prompt.
    empty: Vec<f64>,
}

impl StableDiffusion {
    /// Loads `dir`; vocabularies come from `vocab` where given, else from the model's tokenizer folders.
    ///
    /// # Errors
    /// [`Error::File`] naming the file and the key or tensor that does not fit.
    pub fn load(dir: &Path, vocab: Option<&Path>, dtype: DType) -> Result<Self> {
        Self::load_with(dir, None, vocab, dtype)
    }

    /// As [`StableDiffusion::load`] with another VAE, as [`vae_folder`] takes it; the model need not have one then.
    ///
    /// # Errors
    /// As [`StableDiffusion::load`].
    pub fn load_with(dir: &Path, vae: Option<&Path>, vocab: Option<&Path>, dtype: DType) -> Result<Self> {
        let files = ModelDir::open(dir)?;
        let scheduler = Config::open(&files.scheduler.join("scheduler_config.json"))?.into_value();
        let model = Self {
            text: TextEncoders::load(&files, vocab, dtype)?,
            unet: UNet::load(&files.unet, dtype)?,
            vae: match vae {
                None => AutoencoderKl::load(&files.vae, dtype)?,
                Some(other) => AutoencoderKl::load_standing_in(&vae_folder(other)?, &files.vae, dtype)?,
            },
            scheduler,
            dtype,
            gate: None,
            folded: Vec::new(),
        };
        // What conversions used is of no use to activations.
        release_pool();
        Ok(model)
    }

    /// Moves every network to `device`, where it then computes. LoRAs that are applied later go there too.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn to(&self, device: &Device) -> Result<()> {
        self.unet.to(device)?;
        self.vae.to(device)?;
        self.text.to(device)?;
        // What moved away has left its memory.
        release_pool();
        Ok(())
    }

    /// As [`TextEncoders::encode`].
    ///
    /// # Errors
    /// As [`TextEncoders::encode`].
    pub fn encode(&self, prompts: &[String], second: Option<&[String]>, clip_skip: usize) -> Result<Conditions> {
        self.text.encode(prompts, second, clip_skip)
    }

    /// As [`TextEncoders::encode_negative`].
    ///
    /// # Errors
    /// As [`TextEncoders::encode`].
    pub fn encode_negative(
        &self,
        negative: Option<&[String]>,
        second: Option<&[String]>,
        positive: &Conditions,
    ) -> Result<Conditions> {
        self.text.encode_negative(negative, second, positive)
    }

    pub fn is_xl(&self) -> bool {
        self.text.is_xl()
    }

    /// Takes every LoRA off again.
    pub fn take_off(&mut self) {
        self.gate = None;
        // What was changed lies where it was: there is room for it.
        drop(fold::restore(std::mem::take(&mut self.folded)));
        self.unet.visit(&mut attach::detach);
        for encoder in &mut self.text.encoders {
            encoder.model.visit(&mut attach::detach);
        }
    }

    /// Adds experts whose UNet layers `gates` weigh for each prompt. Their layers in text encoders, from whose states the
    /// shares come, have equal shares.
    ///
    /// # Errors
    /// As [`StableDiffusion::apply`]; [`Error::Failed`] where a layer has no gate; [`Error::Shape`] for gates of a model with
    /// other text states.
    pub fn apply_gated(&mut self, experts: &[&Expert], gates: Gates) -> Result<()> {
        let share = 1.0 / experts.len() as f64;
        let all: Vec<(&Expert, f64)> = experts.iter().map(|expert| (*expert, share)).collect();
        let mut texts = merge::merge(&all, &merge::Options::new(merge::Method::Average))?.expert;
        texts.components.remove("unet");
        self.apply(&[texts])?;
        let mixture = Mixture::attach(experts, &mut self.unet, self.dtype)?;
        let states = self.encode(&[String::new()], None, 0)?.context;
        let [_, tokens, width] = states.dims("gate")?;
        mixture.check(&gates, width)?;
        let empty = self.text.pooled("", &states.with_shape(&[tokens, width]), 1)?;
        self.gate = Some(Gated { mixture, gates, empty });
        Ok(())
    }

    /// Adds LoRA experts to the UNet and the text encoders; each keeps its own strength.
    ///
    /// # Errors
    /// If a module of an expert is not in the model, or does not fit it.
    pub fn apply(&mut self, experts: &[Expert]) -> Result<()> {
        let mut components: BTreeMap<&str, BTreeMap<String, Vec<&LoraFactors>>> = BTreeMap::new();
        let networks = std::iter::once(("unet", self.unet.parameters()));
        let texts = ["text_encoder", "text_encoder_2"].into_iter().zip(&self.text.encoders);
        for (component, parameters) in networks.chain(texts.map(|(name, text)| (name, text.model.parameters()))) {
            self.folded.extend(fold::fold(parameters, component, experts)?);
        }
        let products = experts.iter().flat_map(Expert::iter).filter(|(_, _, factors)| factors.magnitude.is_none());
        for (component, module, factors) in products {
            components.entry(component).or_default().entry(module.into()).or_default().push(factors);
        }
        for (component, modules) in &components {
            match *component {
                "unet" => attach_all(modules, self.dtype, |f| self.unet.visit(f))?,
                "text_encoder" => attach_all(modules, self.dtype, |f| self.text.encoders[0].model.visit(f))?,
                "text_encoder_2" if self.is_xl() => {
                    attach_all(modules, self.dtype, |f| self.text.encoders[1].model.visit(f))?
                }
                other => {
                    return Err(Error::Failed(format!("a LoRA has modules for {other}, which this model lacks")));
                }
            }
        }
        Ok(())
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
