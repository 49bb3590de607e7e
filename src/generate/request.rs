//! One image that is asked for: its prompt, and its own settings where the prompt's record has some.

use image::RgbImage;
use serde_json::Value;

use super::generation::{Batch, Generation, Networks, Start};
use super::loras::Strength;
use super::webui::{Fragment, Weighted};
use super::{Conditions, Gated, StableDiffusion};
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::lora::gate::Rows;
use crate::tensor::Tensor;

/// One image to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its number in the folder, from 0.
    pub number: u64,
    /// With the seed, decides the noise, whatever the batch.
    pub index: u64,
    pub prompt: String,
    /// Texts of 77 tokens that the prompt is read as.
    pub parts: usize,
    pub generation: Generation,
    /// The words with their weights, where the prompt is read in webui's syntax.
    pub weighted: Option<Weighted>,
    /// LoRAs that the prompt itself names, beside those of all images.
    pub loras: Vec<Strength>,
}

/// Settings that a prompt's record can set for itself, each with its other spellings.
const OWN_SETTINGS: [&[&str]; 7] = [
    &["negative", "negative_prompt"],
    &["seed"],
    &["steps", "num_inference_steps"],
    &["guidance", "guidance_scale", "cfg_scale"],
    &["width"],
    &["height"],
    &["scheduler", "sampler"],
];

/// Whether `key` of a record is a setting.
pub(super) fn is_setting(key: &str) -> bool {
    OWN_SETTINGS.iter().any(|names| names.contains(&key))
}

impl Request {
    /// The `copy`-th of `copies` images of a prompt that is number `place` of its file. A record's own settings replace those
    /// of `shared`. With a seed of its own, an image depends on that and the copy alone (or the record's `index`), not on the
    /// place in the file.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the prompt's number and the setting that is not of its type.
    pub fn new(prompt: &Prompt, [place, copy, copies]: [usize; 3], shared: &Generation) -> Result<Self> {
        let mut generation = shared.clone();
        let refuse = |key: &str, value: &Value, expected: &str| {
            let message = format!("prompt {}: `{key}` is {value}; expected {expected}", place + 1);
            Error::Usage(message)
        };
        let mut own_seed = false;
        for names in OWN_SETTINGS {
            let given = names.iter().find_map(|name| Some((*name, prompt.rest.get(*name)?)));
            let Some((key, value)) = given.filter(|(_, value)| !is_left_out(value)) else {
                continue;
            };
            let whole = || number::<u64>(value).ok_or_else(|| refuse(key, value, "a whole number from 0 on"));
            match names[0] {
                "negative" => generation.negative = Some(text(value).ok_or_else(|| refuse(key, value, "a text"))?),
                "scheduler" => generation.scheduler = Some(text(value).ok_or_else(|| refuse(key, value, "a name"))?),
                "seed" => (generation.seed, own_seed) = (whole()?, true),
                "steps" => generation.steps = whole()? as usize,
                "width" => generation.size.1 = whole()? as usize,
                "height" => generation.size.0 = whole()? as usize,
                _ => generation.guidance.scale = number(value).ok_or_else(|| refuse(key, value, "a number"))?,
            }
        }
        let number = (place * copies + copy) as u64;
        let of_record = prompt.rest.get("index").and_then(Value::as_u64).unwrap_or(0);
        let index = if own_seed { of_record + copy as u64 } else { number };
        Ok(Self { number, index, ..Self::plain(prompt.text.clone(), generation) })
    }

    /// The first image of a prompt whose every character is text.
    pub fn plain(prompt: String, generation: Generation) -> Self {
        Self { number: 0, index: 0, prompt, parts: 1, generation, weighted: None, loras: Vec::new() }
    }

    /// Whether both can be generated in one batch.
    pub(super) fn fits(&self, other: &Self) -> bool {
        self.parts == other.parts
            && self.generation.fits(&other.generation)
            && self.weighted.is_some() == other.weighted.is_some()
            && self.loras == other.loras
    }
}

/// Tables have empty cells, records nulls.
fn is_left_out(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A number, or a text that is one: tables have no numbers.
fn number<T: std::str::FromStr>(value: &Value) -> Option<T> {
    match value {
        Value::Number(number) => parsed(&number.to_string()),
        Value::String(text) => parsed(text.trim()),
        _ => None,
    }
}

/// Tables with gaps make 7.0 of 7 (pandas).
fn parsed<T: std::str::FromStr>(text: &str) -> Option<T> {
    let whole = || text.strip_suffix(".0").or_else(|| text.strip_suffix(".00"))?.parse().ok();
    text.parse().ok().or_else(whole)
}

impl StableDiffusion {
    /// The networks that images run through.
    pub fn networks(&self) -> Networks<'_> {
        Networks { unet: &self.unet, vae: &self.vae, scheduler: &self.scheduler, is_xl: self.is_xl() }
    }

    /// One image a request, and the latents of all, `[n, h, w, c]`; all of them must fit in one batch. `seen` is called after each step and may stop the work by an
    /// error.
    ///
    /// # Errors
    /// As [`Batch::run`].
    pub fn images(
        &self,
        requests: &[Request],
        start: Option<&Start>,
        seen: impl FnMut() -> Result<()>,
    ) -> Result<(Tensor, Vec<RgbImage>)> {
        let Some(first) = requests.first() else {
            return Ok((Tensor::new(Vec::<f32>::new(), &[0]), Vec::new()));
        };
        let (positive, negative) = self.conditions(requests)?;
        let mixture = match &self.gate {
            None => None,
            Some(gate) => Some((&gate.mixture, self.mixed_rows(gate, requests, &positive)?)),
        };
        Batch {
            mixture,
            networks: self.networks(),
            generation: &first.generation,
            noise: requests.iter().map(|request| (request.generation.seed, request.index)).collect(),
            positive,
            negative,
            start,
        }
        .run(seen)
    }

    /// The experts' shares for each row of the batch. The negative half has those of the empty prompt.
    fn mixed_rows(&self, gate: &Gated, requests: &[Request], positive: &Conditions) -> Result<Rows> {
        let mut states = Vec::new();
        if requests[0].generation.guidance.scale > 1.0 {
            states.extend(std::iter::repeat_n(&gate.empty[..], requests.len()));
        }
        let context = positive.context.to_cpu()?;
        let [rows, tokens, width] = context.dims("gate")?;
        debug_assert_eq!(rows, requests.len());
        let own = requests.iter().enumerate().map(|(row, request)| {
            let parts = if request.parts > 1 { self.text.parts(&request.prompt)? } else { 1 };
            let own = context.view(row * tokens * width, &[tokens, width]);
            self.text.pooled(&request.prompt, &own, parts)
        });
        let own: Vec<Vec<f64>> = own.collect::<Result<_>>()?;
        states.extend(own.iter().map(Vec::as_slice));
        gate.mixture.rows(&gate.gates, &states)
    }

    fn conditions(&self, requests: &[Request]) -> Result<(Conditions, Conditions)> {
        let text = &self.text;
        let prompts: Vec<String> = requests.iter().map(|request| request.prompt.clone()).collect();
        let parts = requests.iter().map(|request| request.parts).max().unwrap_or(1);
        let clip_skip = requests[0].generation.clip_skip;
        // Requests of a batch all have a negative prompt, or none has.
        let negative: Option<Vec<String>> = requests.iter().map(|r| r.generation.negative.clone()).collect();
        let weighted: Option<Vec<&Weighted>> = requests.iter().map(|request| request.weighted.as_ref()).collect();
        if let Some(weighted) = weighted {
            return self.weighted_conditions(&weighted, clip_skip, parts);
        }
        if parts <= 1 {
            let positive = text.encode(&prompts, None, clip_skip)?;
            let negative = text.encode_negative(negative.as_deref(), None, &positive)?;
            return Ok((positive, negative));
        }
        let positive = text.encode_long(&prompts, clip_skip, parts)?;
        let negative = match negative {
            None if text.is_xl() && text.force_zeros_for_empty_prompt => text.encode_negative(None, None, &positive)?,
            negative => {
                let negative = negative.unwrap_or_else(|| vec![String::new(); requests.len()]);
                text.encode_long(&negative, 0, parts)?
            }
        };
        Ok((positive, negative))
    }

    fn weighted_conditions(
        &self,
        all: &[&Weighted],
        clip_skip: usize,
        parts: usize,
    ) -> Result<(Conditions, Conditions)> {
        let text = &self.text;
        let positive: Vec<Vec<Fragment>> = all.iter().map(|one| one.positive.clone()).collect();
        let positive = text.encode_weighted(&positive, clip_skip, parts)?;
        let negative: Option<Vec<Vec<Fragment>>> = all.iter().map(|one| one.negative.clone()).collect();
        let negative = match negative {
            None if text.is_xl() && text.force_zeros_for_empty_prompt => positive.zeros()?,
            negative => {
                let negative = negative.unwrap_or_else(|| vec![Vec::new(); all.len()]);
                text.encode_weighted(&negative, 0, parts)?
            }
        };
        Ok((positive, negative))
    }
}
