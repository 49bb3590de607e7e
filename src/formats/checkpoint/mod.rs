//! Single-file checkpoints in the LDM layout of Stable Diffusion 1.x, 2.x and XL. Each component is seen under diffusers'
//! names, as if it came from a model folder.
//!
//! A file may describe itself: the metadata key `selma.config` holds an object of component -> configuration, as in the
//! `config.json` files of a folder. Without it, configurations follow from the tensors' shapes.

mod configs;
mod detect;
mod names;
mod source;
pub mod summary;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

pub use detect::Kind;
pub use source::{Part, Source};

/// What transformers calls a tensor of an OpenCLIP text encoder, and the parts of it; empty for another name.
pub(crate) fn open_clip_text(key: &str) -> Vec<(String, Part)> {
    names::open_clip(key, usize::MAX, true)
}

use crate::error::{Error, Result};
use crate::formats::json;
use crate::formats::safetensors::Safetensors;

/// The key of `model_index.json` that says whether a missing negative prompt is all zeros.
pub(crate) const FORCES_ZEROS: &str = "force_zeros_for_empty_prompt";

/// Component -> name in diffusers -> where it lies.
type Index = BTreeMap<&'static str, BTreeMap<String, Source>>;

/// An open checkpoint.
pub struct Checkpoint {
    pub kind: Kind,
    file: Safetensors,
    index: Index,
    /// Input blocks of a level: resnets and the sampler.
    stride: usize,
    /// What the file says of itself.
    own: Value,
    /// Tensors that belong to none of the components.
    unused: Vec<String>,
}

impl Checkpoint {
    /// Reads the header and finds every tensor's place.
    ///
    /// # Errors
    /// [`Error::File`] naming what the file holds if that is no Stable Diffusion for text to image, the component that it
    /// lacks, or tensors of a network that have no place in it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Safetensors::open(path)?;
        let kind = detect::kind(&file)?;
        let own = match file.metadata().get("selma.config") {
            None => Value::Null,
            Some(text) => json::parse(text.as_bytes())
                .map_err(|e| Error::file(path, format!("metadata selma.config is not valid JSON: {e}")))?,
        };
        let mut checkpoint = Self { stride: stride(&file), kind, file, index: Index::new(), own, unused: Vec::new() };
        checkpoint.sort_tensors()?;
        let encoders: &[&str] = match kind {
            Kind::Sdxl => &["text_encoder", "text_encoder_2"],
            _ => &["text_encoder"],
        };
        // Another VAE may be given beside it.
        for component in ["unet"].iter().chain(encoders) {
            if !checkpoint.index.contains_key(component) {
                let message = format!("this {} checkpoint has no {component}", kind.name());
                return Err(Error::file(path, message));
            }
        }
        Ok(checkpoint)
    }

    /// What the model's index says of a missing negative prompt (SDXL); true, as diffusers takes it for any single file, where the
    /// file does not say it.
    pub fn forces_zeros(&self) -> bool {
        self.own["model_index"][FORCES_ZEROS].as_bool().unwrap_or(true)
    }

    /// As [`Checkpoint::open`] for the sake of one component: for `vae`, a file with nothing but a VAE will do.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_for(path: &Path, component: &str) -> Result<Self> {
        if component != "vae" {
            return Self::open(path);
        }
        let file = Safetensors::open(path)?;
        let Some(prefix) = detect::vae_alone(&file) else {
            return Self::open(path);
        };
        let levels = names::count(file.names(), &format!("{prefix}decoder.up."));
        let in_diffusers_names = levels == 0;
        let mut vae = BTreeMap::new();
        let mut lost = Vec::new();
        for key in file.names().filter(|key| !detect::is_ignored(key)) {
            let rest = key.strip_prefix(prefix);
            match rest.and_then(|rest| if in_diffusers_names { Some(rest.into()) } else { names::vae(rest, levels) }) {
                Some(name) => drop(vae.insert(name, Source::whole(key))),
                None if detect::is_left_of_training(rest.unwrap_or(key)) => {}
                None => lost.push(key),
            }
        }
        vae.retain(|name, _| !detect::is_left_of_training(name));
        refuse_lost(&file, &lost, "a VAE")?;
        Ok(Self {
            stride: 1,
            kind: Kind::Sd1,
            index: Index::from([("vae", vae)]),
            own: Value::Null,
            unused: Vec::new(),
            file,
        })
    }

    fn sort_tensors(&mut self) -> Result<()> {
        let layout = self.layout();
        let mut lost = Vec::new();
        for key in self.file.names().filter(|key| !detect::is_ignored(key)) {
            match names::places(key, &layout) {
                Some((component, places)) if !places.is_empty() => {
                    self.index.entry(component).or_default().extend(places);
                }
                // A part of a network that is left out would draw other images.
                Some(("unet" | "vae", _)) => lost.push(key),
                Some(_) if is_spare(key) => {}
                _ => self.unused.push(key.into()),
            }
        }
        refuse_lost(&self.file, &lost, &format!("an {} model", self.kind.name()))
    }

    fn layout(&self) -> names::Layout {
        let count = |prefix: &str| names::count(self.file.names(), prefix);
        let layers = |component: &str, prefix: &str, spare: usize| {
            let own = self.own[component]["num_hidden_layers"].as_u64().map(|layers| layers as usize);
            own.unwrap_or_else(|| count(&format!("{prefix}transformer.resblocks.")).saturating_sub(spare))
        };
        names::Layout {
            stride: self.stride,
            levels: count(&format!("{}decoder.up.", names::VAE)),
            layers: [
                // SD 2.x takes the states before the last layer, which its files hold nevertheless.
                layers("text_encoder", names::OPEN_CLIP_ENCODER, 1),
                layers("text_encoder_2", names::XL_OPEN_CLIP_ENCODER, 0),
            ],
        }
    }

    /// The configuration of a component (`unet`, `scheduler`, `tokenizer_2`, ..), as its file in a model folder has it.
    ///
    /// # Errors
    /// [`Error::File`] where a tensor that it follows from is missing, or the file has no VAE.
    pub fn config(&self, component: &str) -> Result<Value> {
        if component == "vae" && !self.index.contains_key("vae") {
            let message = format!("this {} checkpoint has no VAE; give one by --vae", self.kind.name());
            return Err(Error::file(self.file.path(), message));
        }
        match &self.own[component] {
            Value::Null => configs::infer(self, component),
            own => Ok(own.clone()),
        }
    }

    /// What the UNet's latents are of the VAE's: they are multiplied by this.
    pub fn scaling_factor(&self) -> f64 {
        let own = self.own["vae"]["scaling_factor"].as_f64();
        own.unwrap_or(if self.kind == Kind::Sdxl { 0.13025 } else { 0.18215 })
    }

    /// What a user should know: tensors that are not used, and what was guessed.
    ///
    /// # Errors
    /// [`Error::File`] for a damaged tensor that a guess depends on.
    pub fn notes(&self) -> Result<Vec<String>> {
        let path = self.file.path().display();
        let unused = self.unused.iter().map(|key| format!("{path}: {key} is unused"));
        let mut notes: Vec<String> = unused.collect();
        if self.kind == Kind::Sd2 && self.own["scheduler"].is_null() {
            let predicted = self.predicted()?;
            let (name, because) = (predicted.name(), predicted.because);
            notes.push(format!("{path}: taken for a model of --prediction {name}: {because}"));
        }
        Ok(notes)
    }

    /// The file, and where in it each of a component's tensors lies.
    ///
    /// # Errors
    /// [`Error::File`] for a component that the file has not.
    pub fn into_component(mut self, component: &str) -> Result<(Safetensors, BTreeMap<String, Source>)> {
        match self.index.remove(component) {
            Some(tensors) => Ok((self.file, tensors)),
            None => Err(Error::file(self.file.path(), format!("has no {component}"))),
        }
    }

    /// Stored key -> the component and the names that lie in it: for writing a file of the same layout.
    pub fn by_key(&self) -> BTreeMap<&str, Vec<(&str, &str, &Source)>> {
        let mut keys: BTreeMap<&str, Vec<(&str, &str, &Source)>> = BTreeMap::new();
        for (component, tensors) in &self.index {
            for (name, source) in tensors {
                keys.entry(&source.key).or_default().push((component, name, source));
            }
        }
        keys
    }

    pub fn file(&self) -> &Safetensors {
        &self.file
    }

    fn names(&self, component: &str) -> impl Iterator<Item = &str> {
        self.index.get(component).into_iter().flat_map(|tensors| tensors.keys().map(String::as_str))
    }

    fn shape(&self, component: &str, name: &str) -> Option<Vec<usize>> {
        let source = self.index.get(component)?.get(name)?;
        Some(source.shape(self.file.shape(&source.key)?))
    }
}

/// # Errors
/// [`Error::File`] naming the first of the `lost` tensors, where there are any.
fn refuse_lost(file: &Safetensors, lost: &[&str], whole: &str) -> Result<()> {
    const SHOWN: usize = 4;
    if lost.is_empty() {
        return Ok(());
    }
    let first = lost[..lost.len().min(SHOWN)].join(", ");
    let message = format!("{} tensors have no place in {whole}, such as {first}", lost.len());
    Err(Error::file(file.path(), message))
}

/// Whether a file is a whole model rather than a LoRA or something else.
///
/// # Errors
/// As [`Safetensors::open`].
pub fn is_checkpoint(path: &Path) -> Result<bool> {
    let first = format!("{}input_blocks.0.0.weight", names::UNET);
    Ok(Safetensors::open(path)?.contains(&first))
}

/// Whether a file is a VAE without a model around it: it does not know the scale of its latents.
///
/// # Errors
/// As [`Safetensors::open`].
pub fn is_vae_alone(path: &Path) -> Result<bool> {
    Ok(detect::vae_alone(&Safetensors::open(path)?).is_some())
}

/// What the encoders' files hold and the pipelines never use: the last layer and the projection of SD 2.x.
fn is_spare(key: &str) -> bool {
    let open_clip = key.strip_prefix(names::OPEN_CLIP_ENCODER).or(key.strip_prefix(names::XL_OPEN_CLIP_ENCODER));
    open_clip.is_some_and(|rest| rest.starts_with("transformer.resblocks.") || rest == "text_projection")
        || key.ends_with("text_projection.weight")
        || key.ends_with("logit_scale")
}

/// The first input block with a sampler ends the first level; every published model has two resnets and a sampler.
fn stride(file: &Safetensors) -> usize {
    let sampler = |at: &u8| file.contains(&format!("{}input_blocks.{at}.0.op.weight", names::UNET));
    (1..=u8::MAX).find(sampler).map_or(3, usize::from)
}
