//! What an image was made with, as the text that webui keeps in PNG files: prompt, negative prompt, and a line of settings.
//! Everything that decides the pixels is in it, and no clock, so it also tells whether an image on disk is the one that
//! would be generated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::StableDiffusion;
use super::loras::Strength;
use super::request::Request;
use crate::diffusion::names;
use crate::error::Result;
use crate::formats::component::{in_checkpoint, weight_files};
use crate::formats::digest;
use crate::formats::model_dir::ModelDir;

/// The files that images are generated from.
pub(super) struct Sources<'a> {
    pub model: &'a Path,
    /// The folder of another VAE.
    pub vae: Option<&'a Path>,
    pub loras: &'a [Strength],
    /// The file of the gate that weighs the LoRAs.
    pub gate: Option<&'a Path>,
    /// A hash of all that these files hold, such as [`inputs_hash`] finds.
    pub inputs: &'a str,
    /// Of an image to start from.
    pub strength: Option<f64>,
}

/// What a LoRA is known by.
struct Hashes {
    /// Of the tensors alone, as webui shows it.
    tensors: String,
    /// Of the whole file; its first ten characters are the AutoV2 hash of model sites.
    file: String,
}

/// What all images of a folder share.
pub(super) struct Parameters {
    model: String,
    vae: String,
    strength: String,
    prediction: String,
    loras: Vec<Strength>,
    /// Of every LoRA file that an image is made with.
    hashes: BTreeMap<PathBuf, Hashes>,
    gate: String,
    precision: String,
    inputs: String,
    /// The model's own sampler.
    scheduler: String,
}

impl Parameters {
    /// # Errors
    /// [`crate::Error::Io`] where a LoRA or a gate cannot be read.
    pub fn new(model: &StableDiffusion, sources: &Sources, requests: &[Request]) -> Result<Self> {
        let mut hashes = BTreeMap::new();
        for lora in sources.loras.iter().chain(requests.iter().flat_map(|request| &request.loras)) {
            if !hashes.contains_key(&lora.path) {
                let both = Hashes { tensors: digest::tensors(&lora.path)?, file: digest::file(&lora.path)? };
                hashes.insert(lora.path.clone(), both);
            }
        }
        let of_scheduler = |key: &str| model.scheduler[key].as_str().unwrap_or_default();
        Ok(Self {
            model: sources.model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            vae: sources.vae.map(name).unwrap_or_default(),
            strength: sources.strength.map(|strength| strength.to_string()).unwrap_or_default(),
            prediction: Some(of_scheduler("prediction_type"))
                .filter(|name| *name != "epsilon")
                .unwrap_or_default()
                .into(),
            loras: sources.loras.to_vec(),
            hashes,
            gate: sources.gate.map_or(Ok(String::new()), |gate| digest::tensors(gate).map(|hash| hash[..12].into()))?,
            precision: Some(model.dtype.name()).filter(|name| *name != "f32").unwrap_or_default().into(),
            inputs: sources.inputs.into(),
            scheduler: of_scheduler("_class_name").into(),
        })
    }

    /// The LoRAs of one image.
    fn loras_of<'a>(&'a self, request: &'a Request) -> impl Iterator<Item = (&'a Strength, &'a Hashes)> {
        let all = self.loras.iter().chain(&request.loras);
        all.filter_map(|lora| Some((lora, self.hashes.get(&lora.path)?)))
    }

    /// The LoRAs of one image, for its row of `metadata.jsonl`.
    pub(super) fn lora_rows(&self, request: &Request) -> Vec<Value> {
        let row = |(lora, hashes): (&Strength, &Hashes)| {
            json!({
                "name": name(&lora.path), "scale": lora.scale, "sha256": hashes.file, "autov2": hashes.file[..10],
            })
        };
        self.loras_of(request).map(row).collect()
    }

    /// The text of one image. Settings are in webui's order; empty ones are left out.
    pub fn text(&self, request: &Request) -> String {
        let g = &request.generation;
        let mut text = request.prompt.clone();
        if let Some(negative) = g.negative.as_deref().filter(|n| !n.is_empty()) {
            text += &format!("\nNegative prompt: {negative}");
        }
        let some = |set: bool, value: String| if set { value } else { String::new() };
        let list = |of: &dyn Fn(&Strength, &Hashes) -> String| -> String {
            let one = |(lora, hashes): (&Strength, &Hashes)| format!("{}: {}", name(&lora.path), of(lora, hashes));
            self.loras_of(request).map(one).collect::<Vec<_>>().join(", ")
        };
        let settings: [(&str, &str); 19] = [
            ("Steps", &g.steps.to_string()),
            ("Sampler", &names::label(g.scheduler.as_deref().unwrap_or(&self.scheduler))),
            ("CFG scale", &g.guidance.scale.to_string()),
            ("CFG rescale", &some(g.guidance.rescale > 0.0, g.guidance.rescale.to_string())),
            ("Size", &format!("{}x{}", g.size.1, g.size.0)),
            ("Model", &self.model),
            ("VAE", &self.vae),
            ("Denoising strength", &self.strength),
            ("Prediction", &self.prediction),
            // webui counts from 1.
            ("Clip skip", &some(g.clip_skip > 0, (g.clip_skip + 1).to_string())),
            ("Lora hashes", &list(&|_, hashes| hashes.tensors[..12].into())),
            ("Lora strengths", &list(&|lora, _| lora.scale.to_string())),
            ("Lora gate", &self.gate),
            ("Prompt syntax", if request.weighted.is_some() { "webui" } else { "" }),
            ("Precision", &self.precision),
            ("Inputs", &self.inputs),
            ("Seed", &g.seed.to_string()),
            ("Index", &request.index.to_string()),
            ("Long prompt", if request.parts > 1 { "True" } else { "" }),
        ];
        let all = settings.into_iter().chain([("Version", VERSION)]);
        let line: Vec<String> = all
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{key}: {}", quoted(value)))
            .collect();
        text + "\n" + &line.join(", ")
    }
}

/// The name of a file without its ending.
fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

const VERSION: &str = concat!("selma ", env!("CARGO_PKG_VERSION"));

/// webui's rule: what would be read as several settings becomes a JSON string.
fn quoted(value: &str) -> String {
    match value.contains([',', ':', '\n']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.into(),
    }
}

/// Every file of a model that decides its images.
///
/// # Errors
/// As [`ModelDir::open`]; where a component has no weights.
pub fn model_files(model: &Path, vae: Option<&Path>, vocab: Option<&Path>) -> Result<Vec<PathBuf>> {
    let dir = ModelDir::open(model)?;
    let mut files = vec![model.join("model_index.json"), dir.scheduler.join("scheduler_config.json")];
    let encoders = [Some(&dir.text_encoder), dir.text_encoder_2.as_ref()];
    let networks = [dir.unet.as_path(), vae.unwrap_or(&dir.vae)].into_iter();
    for place in networks.chain(encoders.into_iter().flatten().map(PathBuf::as_path)) {
        match in_checkpoint(place) {
            Some((file, _)) => files.push(file.into()),
            None => {
                files.push(place.join("config.json"));
                files.extend(weight_files(place)?);
            }
        }
    }
    for folder in [Some(&dir.tokenizer), dir.tokenizer_2.as_ref()].into_iter().flatten() {
        let words = vocab.unwrap_or(folder);
        files.push(folder.join("tokenizer_config.json"));
        files.extend(["vocab.json", "merges.txt", "tokenizer.json"].map(|name| words.join(name)));
    }
    // What a checkpoint has inside is hashed with it.
    files.retain(|file| file.exists());
    files.dedup();
    Ok(files)
}

/// The hash of all inputs: model, LoRAs, initial image. It reads every byte, so it runs on a thread of its own.
///
/// # Errors
/// Of the thread: [`crate::Error::Io`] where a file cannot be read.
pub fn inputs_hash(files: Vec<PathBuf>) -> std::thread::JoinHandle<Result<String>> {
    std::thread::spawn(move || digest::files(&files).map(|hash| hash[..16].into()))
}
