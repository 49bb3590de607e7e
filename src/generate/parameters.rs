//! What an image was made with, as the text that webui keeps in PNG files: prompt, negative prompt, and a line of settings.
//! Everything that decides the pixels is in it, and no clock, so it also tells whether an image on disk is the one that
//! would be generated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::loras::Strength;
use super::request::{Request, is_setting};
use crate::diffusion::names;
use crate::error::Result;
use crate::formats::component::{in_checkpoint, weight_files};
use crate::formats::digest;
use crate::formats::model_dir::ModelDir;
use crate::tensor::DType;

/// Keys of a prompt's record that the rows of `metadata.jsonl` set themselves, beside the settings.
const OWN_KEYS: [&str; 5] = ["file_name", "text", "index", "loras", "prompt_syntax"];

/// The files that images are generated from.
#[derive(Default)]
pub(crate) struct Sources<'a> {
    pub model: Option<&'a Path>,
    /// The folder of another VAE.
    pub vae: Option<&'a Path>,
    pub loras: &'a [Strength],
    /// The file of the gate that weighs the LoRAs.
    pub gate: Option<&'a Path>,
    /// A hash of all that these files hold, such as [`inputs_hash`] finds.
    pub inputs: &'a str,
    /// Of an image to start from.
    pub strength: Option<f64>,
    /// The name of the LoRA that is being trained.
    pub training: &'a str,
}

/// What a LoRA is known by.
struct Hashes {
    /// Of the tensors alone, as webui shows it.
    tensors: String,
    /// Of the whole file; its first ten characters are the AutoV2 hash of model sites.
    file: String,
}

/// What all images of a folder share.
pub(crate) struct Parameters {
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
    training: String,
}

impl Parameters {
    /// `scheduler`: the model's `scheduler_config.json`.
    ///
    /// # Errors
    /// [`crate::Error::Io`] where a LoRA or a gate cannot be read.
    pub fn new(scheduler: &Value, dtype: DType, sources: &Sources, requests: &[Request]) -> Result<Self> {
        let mut hashes = BTreeMap::new();
        for lora in sources.loras.iter().chain(requests.iter().flat_map(|request| &request.loras)) {
            if !hashes.contains_key(&lora.path) {
                let both = Hashes { tensors: digest::tensors(&lora.path)?, file: digest::file(&lora.path)? };
                hashes.insert(lora.path.clone(), both);
            }
        }
        let of_scheduler = |key: &str| scheduler[key].as_str().unwrap_or_default();
        Ok(Self {
            model: sources.model.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned(),
            vae: sources.vae.map(name).unwrap_or_default(),
            strength: sources.strength.map(|strength| strength.to_string()).unwrap_or_default(),
            prediction: Some(of_scheduler("prediction_type"))
                .filter(|name| *name != "epsilon")
                .unwrap_or_default()
                .into(),
            loras: sources.loras.to_vec(),
            hashes,
            gate: sources.gate.map_or(Ok(String::new()), |gate| digest::tensors(gate).map(|hash| hash[..12].into()))?,
            precision: Some(dtype.name()).filter(|name| *name != "f32").unwrap_or_default().into(),
            inputs: sources.inputs.into(),
            scheduler: of_scheduler("_class_name").into(),
            training: sources.training.into(),
        })
    }

    /// The LoRAs of one image.
    fn loras_of<'a>(&'a self, request: &'a Request) -> impl Iterator<Item = (&'a Strength, &'a Hashes)> {
        let all = self.loras.iter().chain(&request.loras);
        all.filter_map(|lora| Some((lora, self.hashes.get(&lora.path)?)))
    }

    /// The LoRAs of one image, for its row of `metadata.jsonl`.
    fn lora_rows(&self, request: &Request) -> Vec<Value> {
        let row = |(lora, hashes): (&Strength, &Hashes)| {
            json!({
                "name": name(&lora.path), "scale": lora.scale, "sha256": hashes.file, "autov2": hashes.file[..10],
            })
        };
        self.loras_of(request).map(row).collect()
    }

    /// A row of `metadata.jsonl`: the settings that were really used, and `rest`, what else the prompt's own record says.
    pub fn row(&self, file_name: String, request: &Request, rest: &Map<String, Value>) -> Value {
        let g = &request.generation;
        let mut row = json!({
            "file_name": file_name, "text": request.prompt, "seed": g.seed, "index": request.index,
        });
        if let Some(negative) = &g.negative {
            row["negative"] = negative.as_str().into();
        }
        row["steps"] = g.steps.into();
        row["guidance"] = g.guidance.scale.into();
        (row["width"], row["height"]) = (g.size.1.into(), g.size.0.into());
        let own = Some(self.scheduler.as_str()).filter(|own| !own.is_empty());
        row["scheduler"] = g.scheduler.as_deref().or(own).into();
        let loras = self.lora_rows(request);
        if !loras.is_empty() {
            row["loras"] = loras.into();
        }
        if request.weighted.is_some() {
            row["prompt_syntax"] = "webui".into();
        }
        for (key, value) in rest {
            if !OWN_KEYS.contains(&key.as_str()) && !is_setting(key) {
                row[key] = value.clone();
            }
        }
        row
    }

    /// The text of one image. Settings are in webui's order; empty ones are left out.
    pub fn text(&self, request: &Request) -> String {
        self.text_after(request, None)
    }

    /// The same of an image that is drawn after so many steps of the training.
    pub fn text_after(&self, request: &Request, step: Option<u64>) -> String {
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
        let settings: [(&str, &str); 21] = [
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
            ("Lora in training", &self.training),
            ("Training step", &step.map_or(String::new(), |step| step.to_string())),
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
