//! What the weights of BLIP do not tell: from the configurations of its two published layouts.

use serde_json::Value;

use super::files::Files;
use crate::error::{Error, Result};
use crate::nn::bert::BertConfig;
use crate::nn::{BlipSettings, Weights};

/// BERT's, whatever a configuration says of the vision tower.
const TEXT_EPS: f64 = 1e-12;
/// Of timm's vision transformer, on which the original code is built.
const ORIGINAL_EPS: f64 = 1e-6;
const HEAD: usize = 64;
/// Pieces of a text in ImageReward, and of a question in the original BLIP-VQA, with `[CLS]` and `[SEP]`.
pub const TEXT_LENGTH: usize = 35;

/// Which code the weights are of. The layouts are the same networks, but prepare and answer questions in other ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Transformers,
    Original,
}

/// Heads, epsilons and sizes; `image` is that of the images, where it is not what the position table is for.
///
/// # Errors
/// [`Error::File`] naming the key and the value that do not fit.
pub fn settings(files: &Files, weights: &Weights, layout: Layout, image: Option<usize>) -> Result<BlipSettings> {
    let width = weights.shape("vision_model.embeddings.class_embedding")?.last().copied().unwrap_or(0);
    let check = |heads: usize, file: &str| match heads > 0 && width.is_multiple_of(heads) {
        true => Ok(heads),
        false => {
            let message = format!("{heads} attention heads do not divide the vision tower's width {width}");
            Err(Error::file(files.folder.join(file), message))
        }
    };
    if layout == Layout::Transformers {
        const NAME: &str = "config.json";
        let config = files.json(NAME)?.unwrap_or_default();
        let [vision, text] = ["vision_config", "text_config"].map(|tower| &config[tower]);
        for tower in [vision, text] {
            if let Some(act) = tower["hidden_act"].as_str().filter(|act| *act != "gelu") {
                let message = format!("`hidden_act` is {act}: BLIP's is gelu");
                return Err(Error::file(files.folder.join(NAME), message));
            }
        }
        let number = |tower: &Value, key: &str, default: f64| tower[key].as_f64().unwrap_or(default);
        let heads = |tower: &str, default: usize| match &config[tower]["num_attention_heads"] {
            Value::Null => Ok(default),
            _ => files.size(NAME, &config, &[tower, "num_attention_heads"]),
        };
        let text_heads = heads("text_config", 8)?;
        return Ok(BlipSettings {
            vision_heads: check(heads("vision_config", 12)?, NAME)?,
            vision_eps: number(vision, "layer_norm_eps", 1e-5),
            image,
            text: BertConfig { heads: text_heads, eps: number(text, "layer_norm_eps", TEXT_EPS) },
        });
    }
    let text_width = weights.shape("text_encoder.embeddings.word_embeddings.weight")?.last().copied().unwrap_or(0);
    let (text_heads, eps) = match files.json("med_config.json")? {
        Some(config) => (
            files.size("med_config.json", &config, &["num_attention_heads"])?,
            config["layer_norm_eps"].as_f64().unwrap_or(TEXT_EPS),
        ),
        None => (text_width / HEAD, TEXT_EPS),
    };
    // Heads of 64 channels, but for models that say otherwise.
    let vision_heads = match files.json("judge_config.json")? {
        Some(config) if !config["vision_heads"].is_null() => {
            files.size("judge_config.json", &config, &["vision_heads"])?
        }
        _ => width / HEAD,
    };
    Ok(BlipSettings {
        vision_heads: check(vision_heads, "judge_config.json")?,
        vision_eps: ORIGINAL_EPS,
        image,
        text: BertConfig { heads: text_heads, eps },
    })
}
