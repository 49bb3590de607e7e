//! Dataset files of kohya's sd-scripts: `[general]`, `[[datasets]]` and `[[datasets.subsets]]`, of which the inner ones
//! overrule the outer ones. Source: sd-scripts `docs/config_README-en.md`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{Dataset, Reading, Subset, Variation};
use crate::error::{Error, Result};

/// What a dataset file asks of the whole run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// Pixels of a side.
    pub resolution: Option<u32>,
    pub batch_size: Option<usize>,
    pub buckets: Option<bool>,
    pub bucket_upscale: Option<bool>,
    pub bucket_min: Option<u32>,
    pub bucket_max: Option<u32>,
    pub bucket_steps: Option<u32>,
    pub flip: Option<bool>,
    pub random_crop: Option<bool>,
    pub alpha_mask: Option<bool>,
}

/// Keys that files often have with values that do nothing, and what there is here where they ask for something.
const OFF: [(&str, &str); 12] = [
    ("color_aug", "colours stay as they are"),
    ("face_crop_aug_range", "crop the images before"),
    ("enable_wildcard", "write one caption a line of metadata.jsonl, as a list: one is drawn at each visit"),
    ("keep_tokens_separator", "use keep_tokens"),
    ("secondary_separator", "use caption_separator"),
    ("caption_dropout_every_n_epochs", "use caption_dropout_rate"),
    ("token_warmup_min", "captions are whole from the first step on"),
    ("token_warmup_step", "captions are whole from the first step on"),
    ("cache_info", "what is encoded is always kept, in cache/ or --latents-cache"),
    ("validation_split", "give --validation-split to the run"),
    ("conditioning_data_dir", "give --mask-data to the run"),
    ("metadata_file", "name its folder as image_dir, with metadata.jsonl in it"),
];

/// Takes the keys of [`OFF`] out.
///
/// # Errors
/// A sentence on one that asks for something.
fn without_what_is_off(all: &mut Table) -> Result<(), String> {
    for (key, instead) in OFF {
        let Some(value) = all.remove(key) else { continue };
        let off = match &value {
            Value::Boolean(on) => !on,
            Value::String(text) => text.is_empty(),
            // A warm-up from the first token on has token_warmup_min = 1, whatever token_warmup_step is.
            Value::Integer(number) => *number == 0 || (key == "token_warmup_min" && *number == 1),
            Value::Float(number) => *number == 0.0,
            _ => false,
        };
        if !off {
            return Err(format!("{key} = {value} is not available; {instead}"));
        }
    }
    Ok(())
}

/// All keys of a subset, those of the tables around it included.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    image_dir: Option<PathBuf>,
    num_repeats: Option<u32>,
    is_reg: Option<bool>,
    class_tokens: Option<String>,
    caption_extension: Option<String>,
    shuffle_caption: Option<bool>,
    caption_separator: Option<String>,
    keep_tokens: Option<usize>,
    caption_dropout_rate: Option<f64>,
    caption_tag_dropout_rate: Option<f64>,
    caption_prefix: Option<String>,
    caption_suffix: Option<String>,
    resolution: Option<Value>,
    batch_size: Option<usize>,
    enable_bucket: Option<bool>,
    bucket_no_upscale: Option<bool>,
    min_bucket_reso: Option<u32>,
    max_bucket_reso: Option<u32>,
    bucket_reso_steps: Option<u32>,
    flip_aug: Option<bool>,
    random_crop: Option<bool>,
    alpha_mask: Option<bool>,
}

/// Adds the folders that the file names.
///
/// # Errors
/// [`Error::Io`]; [`Error::Usage`] naming a key that is unknown or of the wrong type, or a table that is missing; those of
/// [`Dataset::read`] for a folder.
pub fn read(path: &Path, reading: &Reading, dataset: &mut Dataset) -> Result<()> {
    let wrong = |why: String| Error::Usage(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let mut file: Table = text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
    let general = table(file.remove("general"), "general").map_err(wrong)?;
    let datasets = tables(file.remove("datasets"), "datasets").map_err(wrong)?;
    if let Some(key) = file.keys().next() {
        return Err(wrong(format!("unknown key `{key}`; expected [general] and [[datasets]]")));
    }
    for mut outer in datasets {
        let subsets = tables(outer.remove("subsets"), "datasets.subsets").map_err(wrong)?;
        for inner in subsets {
            let mut all: Table = general.clone().into_iter().chain(outer.clone()).chain(inner).collect();
            without_what_is_off(&mut all).map_err(wrong)?;
            let keys: Keys = all.try_into().map_err(|e: toml::de::Error| wrong(e.message().to_owned()))?;
            let asked = asked(&keys).map_err(wrong)?;
            if dataset.subsets.is_empty() {
                dataset.asked = asked;
            } else if dataset.asked != asked {
                let why = "its datasets differ in resolution, batch_size, buckets, flip_aug, random_crop or alpha_mask; train on one of \
                           them at a time";
                return Err(wrong(why.into()));
            }
            let dir =
                keys.image_dir.as_ref().ok_or_else(|| wrong("[[datasets.subsets]]: image_dir is missing".into()))?;
            // As kohya's scripts take it, from where the command runs; or from where the file lies.
            let beside = path.parent().unwrap_or(Path::new("")).join(dir);
            let dir = if beside.is_dir() { beside } else { dir.clone() };
            dataset.add(&dir, &part(keys, reading).map_err(wrong)?)?;
        }
    }
    Ok(())
}

/// How one folder is read.
fn part(keys: Keys, reading: &Reading) -> Result<Reading, String> {
    let outer = &reading.subset;
    let share = |name: &str, given: Option<f64>, default: f64| match given.unwrap_or(default) {
        share if (0.0..=1.0).contains(&share) => Ok(share),
        other => Err(format!("{name} is {other}, expected from 0 to 1")),
    };
    if keys.num_repeats == Some(0) {
        return Err("num_repeats is 0, expected at least 1".into());
    }
    let variation = Variation {
        shuffle: keys.shuffle_caption.unwrap_or(outer.variation.shuffle),
        separator: keys.caption_separator.unwrap_or(outer.variation.separator.clone()),
        keep_tokens: keys.keep_tokens.unwrap_or(outer.variation.keep_tokens),
        dropout: share("caption_dropout_rate", keys.caption_dropout_rate, outer.variation.dropout)?,
        tag_dropout: share("caption_tag_dropout_rate", keys.caption_tag_dropout_rate, outer.variation.tag_dropout)?,
        prefix: keys.caption_prefix.unwrap_or_default(),
        suffix: keys.caption_suffix.unwrap_or_default(),
    };
    Ok(Reading {
        caption_column: reading.caption_column.clone(),
        caption_extension: keys.caption_extension.or(reading.caption_extension.clone()),
        subset: Subset {
            repeats: keys.num_repeats.unwrap_or(outer.repeats),
            is_reg: keys.is_reg.unwrap_or(false),
            class_tokens: keys.class_tokens,
            variation,
        },
    })
}

fn asked(keys: &Keys) -> Result<Asked, String> {
    let side = |value: &Value| match value {
        Value::Integer(side) => u32::try_from(*side).ok(),
        Value::Array(both) => match both[..] {
            [Value::Integer(width), Value::Integer(height)] if width == height => u32::try_from(width).ok(),
            _ => None,
        },
        _ => None,
    };
    let resolution = keys.resolution.as_ref().map(|value| {
        side(value).ok_or_else(|| format!("resolution is {value}, expected one number, or twice the same one"))
    });
    Ok(Asked {
        resolution: resolution.transpose()?,
        batch_size: keys.batch_size,
        buckets: keys.enable_bucket,
        bucket_upscale: keys.bucket_no_upscale.map(|no| !no),
        bucket_min: keys.min_bucket_reso,
        bucket_max: keys.max_bucket_reso,
        bucket_steps: keys.bucket_reso_steps,
        flip: keys.flip_aug,
        random_crop: keys.random_crop,
        alpha_mask: keys.alpha_mask,
    })
}

fn table(value: Option<Value>, name: &str) -> Result<Table, String> {
    match value {
        None => Ok(Table::new()),
        Some(Value::Table(table)) => Ok(table),
        Some(_) => Err(format!("{name}: expected a table, [{name}]")),
    }
}

fn tables(value: Option<Value>, name: &str) -> Result<Vec<Table>, String> {
    let wrong = || format!("{name}: expected one table or more, [[{name}]]");
    match value {
        Some(Value::Array(list)) if !list.is_empty() => {
            list.into_iter().map(|value| table(Some(value), name).map_err(|_| wrong())).collect()
        }
        _ => Err(wrong()),
    }
}
