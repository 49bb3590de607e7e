//! What a picture was made with, as the text that webui keeps in PNG files: prompt, negative prompt, and a line of settings.
//! Everything that decides the pixels is in it, and no clock, so it also tells whether a picture on disk is the one that
//! would be drawn.

use std::path::{Path, PathBuf};

use super::draw::{Drawing, Job};
use super::loras::Strength;
use crate::error::Result;
use crate::formats::component::{in_checkpoint, weight_files};
use crate::formats::digest;
use crate::formats::model_dir::ModelDir;

/// The files that pictures are drawn with.
pub struct Sources<'a> {
    pub model: &'a Path,
    /// The folder of another VAE.
    pub vae: Option<&'a Path>,
    pub loras: &'a [Strength],
    /// A hash of all that these files hold, such as [`inputs_hash`] finds.
    pub inputs: String,
}

/// The settings that all pictures of a run share.
pub struct Parameters {
    pub negative: Option<String>,
    /// In webui's order; empty values are left out.
    pub settings: Vec<(&'static str, String)>,
    pub seed: u64,
}

impl Parameters {
    /// # Errors
    /// [`crate::Error::Io`] where a LoRA cannot be read.
    pub fn new(drawing: &Drawing, sources: &Sources) -> Result<Self> {
        let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let list = |items: Vec<String>| items.join(", ");
        let own = drawing.model.scheduler["_class_name"].as_str().unwrap_or_default();
        let hashes = sources.loras.iter().map(|lora| {
            let hash = digest::tensors(&lora.path)?;
            Ok(format!("{}: {}", name(&lora.path), &hash[..12]))
        });
        let hashes = hashes.collect::<Result<Vec<_>>>()?;
        let strengths = sources.loras.iter().map(|lora| format!("{}: {}", name(&lora.path), lora.scale));
        // webui counts from 1.
        let skipped = (drawing.clip_skip > 0).then(|| (drawing.clip_skip + 1).to_string());
        let strength = drawing.start.as_ref().map(|start| start.strength.to_string());
        let rescale = (drawing.guidance.rescale > 0.0).then(|| drawing.guidance.rescale.to_string());
        let precision = drawing.model.dtype.name();
        let (height, width) = drawing.size;
        let prediction = drawing.model.scheduler["prediction_type"].as_str();
        let model = sources.model.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            negative: drawing.negative.map(str::to_owned),
            seed: drawing.seed,
            settings: vec![
                ("Steps", drawing.steps.to_string()),
                ("Sampler", sampler_name(drawing.scheduler.unwrap_or(own)).into()),
                ("CFG scale", drawing.guidance.scale.to_string()),
                ("CFG rescale", rescale.unwrap_or_default()),
                ("Size", format!("{width}x{height}")),
                ("Model", model.into_owned()),
                ("VAE", sources.vae.map(name).unwrap_or_default()),
                ("Denoising strength", strength.unwrap_or_default()),
                ("Prediction", prediction.filter(|name| *name != "epsilon").unwrap_or_default().into()),
                ("Clip skip", skipped.unwrap_or_default()),
                ("Lora hashes", list(hashes)),
                ("Lora strengths", list(strengths.collect())),
                ("Precision", if precision == "f32" { "" } else { precision }.into()),
                ("Inputs", sources.inputs.clone()),
            ],
        })
    }

    /// The text of one picture.
    pub fn text(&self, job: &Job) -> String {
        let mut text = job.prompt.clone();
        if let Some(negative) = self.negative.as_deref().filter(|n| !n.is_empty()) {
            text += &format!("\nNegative prompt: {negative}");
        }
        let (seed, index) = (self.seed.to_string(), job.index.to_string());
        let own = [("Seed", seed.as_str()), ("Index", index.as_str())];
        let parts = if job.parts > 1 { "True" } else { "" };
        let shared = self.settings.iter().map(|(key, value)| (*key, value.as_str()));
        let all = shared.chain(own).chain([("Long prompt", parts), ("Version", VERSION)]);
        let line: Vec<String> = all
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{key}: {}", quoted(value)))
            .collect();
        text + "\n" + &line.join(", ")
    }
}

const VERSION: &str = concat!("selma ", env!("CARGO_PKG_VERSION"));

/// webui's rule: what would be read as several settings becomes a JSON string.
fn quoted(value: &str) -> String {
    match value.contains([',', ':', '\n']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.into(),
    }
}

/// webui's name of a scheduler, by selma's name or the class of diffusers.
pub fn sampler_name(name: &str) -> &str {
    match name {
        "ddim" | "DDIMScheduler" => "DDIM",
        "ddpm" | "DDPMScheduler" => "DDPM",
        "pndm" | "PNDMScheduler" => "PLMS",
        "euler" | "EulerDiscreteScheduler" => "Euler",
        "euler-a" | "EulerAncestralDiscreteScheduler" => "Euler a",
        "dpmpp-2m" => "DPM++ 2M",
        "dpmpp-2m-karras" => "DPM++ 2M Karras",
        "unipc" | "UniPCMultistepScheduler" => "UniPC",
        "lcm" | "LCMScheduler" => "LCM",
        other => other,
    }
}

/// Every file of a model that decides its pictures.
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

/// The hash of all of a run's inputs: model, LoRAs, initial picture. It reads every byte, so it runs beside the drawing.
pub fn inputs_hash(files: Vec<PathBuf>) -> std::thread::JoinHandle<Result<String>> {
    std::thread::spawn(move || digest::files(&files).map(|hash| hash[..16].into()))
}
