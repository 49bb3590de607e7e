//! CLIP models of any published layout, with their tokenizer.

use std::path::Path;

use serde_json::{Value, json};

use super::files::Files;
use super::layout;
use crate::autograd::Tape;
use crate::data::tokenizer::Tokenizer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Activation, ClipModel, ClipSettings, Weights};
use crate::tensor::{DType, Tensor};

/// OpenAI's and open_clip's models have heads of 64 channels; ViT-H's vision tower of 80.
const HEAD: usize = 64;
const EPS: f64 = 1e-5;

pub struct Clip {
    pub model: ClipModel,
    tokenizer: Tokenizer,
    /// SHA-256 of the weights.
    pub hash: String,
}

impl Clip {
    /// From a folder or file, on `device`, with matrices in `dtype`.
    ///
    /// # Errors
    /// [`Error::File`] naming what is missing or does not fit; what the device says.
    pub fn load(place: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let files = Files::find(place)?;
        let model = network(&files, dtype)?;
        model.to(device)?;
        Ok(Self { model, tokenizer: Tokenizer::clip()?, hash: files.hash()? })
    }

    /// Ids `[n, 77]`, and how many of the texts were cut.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_batch`].
    pub fn ids<S: AsRef<str>>(&self, texts: &[S]) -> Result<(Tensor, usize)> {
        let batch = self.tokenizer.encode_batch(texts)?;
        Ok((batch.ids, batch.overlong))
    }

    /// The projected embeddings of texts, not normalised.
    ///
    /// # Errors
    /// What the device says.
    pub fn text_embeds<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Vec<f64>>> {
        let (ids, _) = self.ids(texts)?;
        let output = self.model.text_output(&Tape::off(), &ids)?;
        let embeds = output.text_embeds.ok_or_else(|| Error::Failed("the text encoder has no projection".into()))?;
        rows(&embeds)
    }

    /// The projected embeddings of `[n, h, w, 3]` pixels, not normalised.
    ///
    /// # Errors
    /// What the device says.
    pub fn image_embeds(&self, pixels: &Tensor) -> Result<Vec<Vec<f64>>> {
        rows(&self.model.image(&Tape::off(), pixels)?.embeds)
    }
}

/// The network alone.
///
/// # Errors
/// [`Error::File`] naming what is missing or does not fit.
pub fn network(files: &Files, dtype: DType) -> Result<ClipModel> {
    let weights = files.open(layout::clip, dtype)?;
    let settings = settings(files, &weights)?;
    ClipModel::load(weights, &settings)
}

/// `[n, d]` as n vectors.
///
/// # Errors
/// What the device says.
pub fn rows(x: &Tensor) -> Result<Vec<Vec<f64>>> {
    let [_, d] = x.dims("embeddings")?;
    let x = x.to_cpu()?;
    Ok(x.reals::<f64>().chunks_exact(d.max(1)).map(<[f64]>::to_vec).collect())
}

/// The cosine of two vectors; 0 where one is 0.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms == 0.0 { 0.0 } else { dot(a, b) / norms }
}

/// Hessel et al. 2021 (arXiv:2104.08718), of a text that begins with [`PREFIX`].
pub fn clip_score(cosine: f64) -> f64 {
    2.5 * cosine.max(0.0)
}

/// As torchmetrics has it, of the caption as it is.
pub fn clip_score_100(cosine: f64) -> f64 {
    100.0 * cosine.max(0.0)
}

/// Human preference score (Wu et al. 2023, arXiv:2306.09341), in percent.
pub fn hps(cosine: f64) -> f64 {
    100.0 * cosine
}

/// What CLIPScore puts before a caption.
pub const PREFIX: &str = "A photo depicts ";

/// PickScore's probability of each of several images of one text to be preferred: the softmax of their scores.
pub fn preference(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// Images `[h, w, 3]` of one size as a batch `[n, h, w, 3]`.
///
/// # Errors
/// [`Error::Shape`] where there are none, or their sizes differ.
pub fn stacked(images: &[Tensor]) -> Result<Tensor> {
    let first = images.first().ok_or_else(|| Error::shape("stacked", "no images"))?;
    if let Some(other) = images.iter().find(|image| image.shape() != first.shape()) {
        return Err(Error::shape("stacked", format!("{first:?} and {other:?}")));
    }
    let values: Vec<f32> = images.iter().flat_map(|image| image.data::<f32>()).copied().collect();
    Ok(Tensor::new(values, &[&[images.len()], first.shape()].concat()))
}

fn settings(files: &Files, weights: &Weights) -> Result<ClipSettings> {
    match files.json("config.json")? {
        Some(config) if config["vision_config"].is_object() => return of_transformers(files, &config),
        // Of a vision tower alone.
        Some(config) if config["patch_size"].is_u64() => {
            return of_transformers(files, &json!({ "vision_config": config }));
        }
        _ => {}
    }
    for name in ["open_clip_config.json", "judge_config.json"] {
        if let Some(config) = files.json(name)? {
            let config = if config["model_cfg"].is_object() { config["model_cfg"].clone() } else { config };
            return of_open_clip(files, name, &config, weights);
        }
    }
    let width = |key: &str| Ok::<_, Error>(weights.shape(key)?.last().copied().unwrap_or(0));
    let vision = width("vision_model.embeddings.class_embedding")?;
    let text = width("text_model.embeddings.token_embedding.weight");
    // Files of OpenAI's say what they are; ViT-H is the one published without configuration, as HPS.
    let openai = weights.contains("input_resolution");
    match (openai, vision) {
        (true, _) => Ok(by_width(vision, HEAD, text?, Activation::QuickGelu)),
        (false, 1280) => Ok(by_width(vision, 80, text?, Activation::Gelu)),
        _ => {
            let message = "no config.json or open_clip_config.json here, which says how many attention heads the model \
                           has and which activation";
            Err(Error::file(&files.folder, message))
        }
    }
}

fn by_width(vision: usize, head: usize, text: usize, activation: Activation) -> ClipSettings {
    ClipSettings {
        vision_heads: (vision / head).max(1),
        text_heads: (text / HEAD).max(1),
        activation,
        vision_eps: EPS,
        text_eps: EPS,
        eos_token_id: 2,
    }
}

/// CLIPConfig; what it leaves out is as transformers has it.
fn of_transformers(files: &Files, config: &Value) -> Result<ClipSettings> {
    const NAME: &str = "config.json";
    let heads = |tower: &str, default: usize| match &config[tower]["num_attention_heads"] {
        Value::Null => Ok(default),
        _ => files.size(NAME, config, &[tower, "num_attention_heads"]),
    };
    let [vision, text] = ["vision_config", "text_config"].map(|tower| &config[tower]);
    let activation = |tower: &Value| match tower["hidden_act"].as_str() {
        None | Some("quick_gelu") => Ok(Activation::QuickGelu),
        Some("gelu") => Ok(Activation::Gelu),
        Some(other) => {
            let message = format!("`hidden_act` is {other}: expected quick_gelu or gelu");
            Err(Error::file(files.folder.join(NAME), message))
        }
    };
    let eps = |tower: &Value| tower["layer_norm_eps"].as_f64().unwrap_or(EPS);
    let of_vision = activation(vision)?;
    if text.is_object() && activation(text)? != of_vision {
        return Err(Error::file(
            files.folder.join(NAME),
            "the towers differ in `hidden_act`, which no known CLIP does",
        ));
    }
    Ok(ClipSettings {
        vision_heads: heads("vision_config", 12)?,
        text_heads: heads("text_config", 8)?,
        activation: of_vision,
        vision_eps: eps(vision),
        text_eps: eps(text),
        eos_token_id: text["eos_token_id"].as_u64().unwrap_or(2) as usize,
    })
}

/// open_clip's `model_cfg`; what it leaves out is as open_clip has it.
fn of_open_clip(files: &Files, name: &str, config: &Value, weights: &Weights) -> Result<ClipSettings> {
    let width = weights.shape("vision_model.embeddings.class_embedding")?.last().copied().unwrap_or(0);
    let head = match &config["vision_cfg"]["head_width"] {
        Value::Null => HEAD,
        _ => files.size(name, config, &["vision_cfg", "head_width"])?,
    };
    if !width.is_multiple_of(head) {
        let message = format!("`vision_cfg.head_width` is {head}, which does not divide the width {width}");
        return Err(Error::file(files.folder.join(name), message));
    }
    let quick = &config["quick_gelu"];
    if !matches!(quick, Value::Null | Value::Bool(_)) {
        return Err(Error::file(files.folder.join(name), format!("`quick_gelu` is {quick}: expected true or false")));
    }
    let text_heads = match &config["text_cfg"]["heads"] {
        Value::Null => 8,
        _ => files.size(name, config, &["text_cfg", "heads"])?,
    };
    let quick = *quick == json!(true);
    Ok(ClipSettings {
        vision_heads: width / head,
        text_heads,
        activation: if quick { Activation::QuickGelu } else { Activation::Gelu },
        vision_eps: EPS,
        text_eps: EPS,
        eos_token_id: 2,
    })
}
