//! A model in diffusers' folder layout, `model_index.json` and one folder a component; or a single-file checkpoint, whose
//! components go by the same names inside of the file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, FORCES_ZEROS, Kind};
use crate::formats::{component, json};

/// Which pipeline a model belongs to. SD 1.x and 2.x are one family: their configurations say all that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    StableDiffusion,
    StableDiffusionXl,
}

/// The folders of a model, all of which exist.
#[derive(Clone, Debug)]
pub struct ModelDir {
    pub root: PathBuf,
    pub family: Family,
    pub unet: PathBuf,
    pub vae: PathBuf,
    pub text_encoder: PathBuf,
    pub tokenizer: PathBuf,
    /// SDXL only.
    pub text_encoder_2: Option<PathBuf>,
    pub tokenizer_2: Option<PathBuf>,
    /// Holds `scheduler_config.json`.
    pub scheduler: PathBuf,
    /// The sampler class that the index names.
    pub scheduler_class: String,
    /// SDXL: a missing negative prompt is all zeros rather than the encoding of "".
    pub force_zeros_for_empty_prompt: bool,
    /// What a user of a checkpoint should know: tensors that are not used, and what was guessed.
    pub notes: Vec<String>,
}

impl ModelDir {
    /// Reads `root/model_index.json`, or the header of the checkpoint `root`.
    ///
    /// # Errors
    /// [`Error::File`] naming the index and the class or component that does not fit; as [`Checkpoint::open`].
    pub fn open(root: &Path) -> Result<Self> {
        if root.is_file() {
            return Self::of_checkpoint(root);
        }
        let path = root.join("model_index.json");
        if !path.is_file() {
            let message = "not a model folder: it has no model_index.json (expected diffusers' layout)";
            return Err(Error::file(root, message));
        }
        let index: Value = json::read(&path)?;
        let family = match index["_class_name"].as_str() {
            Some("StableDiffusionPipeline" | "StableDiffusionImg2ImgPipeline") => Family::StableDiffusion,
            Some("StableDiffusionXLPipeline" | "StableDiffusionXLImg2ImgPipeline") => Family::StableDiffusionXl,
            _ => {
                let message = format!(
                    "`_class_name` is {}; supported: StableDiffusionPipeline, StableDiffusionXLPipeline",
                    index["_class_name"]
                );
                return Err(Error::file(&path, message));
            }
        };
        let component = |name: &str, classes: &[&str]| component(root, &path, &index, name, classes);
        const ENCODERS: [&str; 2] = ["CLIPTextModel", "CLIPTextModelWithProjection"];
        const TOKENIZERS: [&str; 2] = ["CLIPTokenizer", "CLIPTokenizerFast"];
        let xl = family == Family::StableDiffusionXl;
        Ok(Self {
            family,
            unet: component("unet", &["UNet2DConditionModel"])?,
            vae: component("vae", &["AutoencoderKL"])?,
            text_encoder: component("text_encoder", &ENCODERS)?,
            tokenizer: component("tokenizer", &TOKENIZERS)?,
            text_encoder_2: xl.then(|| component("text_encoder_2", &ENCODERS)).transpose()?,
            tokenizer_2: xl.then(|| component("tokenizer_2", &TOKENIZERS)).transpose()?,
            scheduler: component("scheduler", &[])?,
            scheduler_class: index["scheduler"][1].as_str().unwrap_or_default().into(),
            force_zeros_for_empty_prompt: index[FORCES_ZEROS].as_bool().unwrap_or(true),
            root: root.into(),
            notes: Vec::new(),
        })
    }

    fn of_checkpoint(root: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(root)?;
        let xl = checkpoint.kind == Kind::Sdxl;
        let scheduler = checkpoint.config("scheduler")?;
        Ok(Self {
            family: if xl { Family::StableDiffusionXl } else { Family::StableDiffusion },
            unet: root.join("unet"),
            vae: root.join("vae"),
            text_encoder: root.join("text_encoder"),
            tokenizer: root.join("tokenizer"),
            text_encoder_2: xl.then(|| root.join("text_encoder_2")),
            tokenizer_2: xl.then(|| root.join("tokenizer_2")),
            scheduler: root.join("scheduler"),
            scheduler_class: scheduler["_class_name"].as_str().unwrap_or_default().into(),
            force_zeros_for_empty_prompt: checkpoint.forces_zeros(),
            root: root.into(),
            notes: checkpoint.notes()?,
        })
    }
}

/// The place of the VAE that `--vae` means: a folder itself, or the VAE of a model or checkpoint.
///
/// # Errors
/// [`Error::File`] where there is none.
pub fn vae_folder(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.join("vae"));
    }
    [path.to_path_buf(), path.join("vae")]
        .into_iter()
        .find(|folder| folder.join("config.json").is_file())
        .ok_or_else(|| Error::file(path, "no VAE: expected config.json and weights, here or in a folder `vae`"))
}

/// A model's `scheduler/scheduler_config.json`; null where the model is a UNet alone.
///
/// # Errors
/// As [`component::json`].
pub fn scheduler_config(root: &Path) -> Result<Value> {
    let path = root.join("scheduler").join("scheduler_config.json");
    match root.is_file() || path.is_file() {
        true => component::json(&path),
        false => Ok(Value::Null),
    }
}

/// The folder of a component that the index lists with one of `classes` (any, where there are none to choose from).
fn component(root: &Path, path: &Path, index: &Value, name: &str, classes: &[&str]) -> Result<PathBuf> {
    let Some(class) = index[name][1].as_str() else {
        return Err(Error::file(path, format!("no component `{name}`, which this pipeline needs")));
    };
    if !classes.is_empty() && !classes.contains(&class) {
        let message = format!("`{name}` is a {class}; supported: {}", classes.join(", "));
        return Err(Error::file(path, message));
    }
    let folder = root.join(name);
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(Error::file(path, format!("it lists `{name}`, but there is no such folder"))),
    }
}
