//! The keys of a training configuration, and the other names that they go by.

use crate::error::{Error, Result};

/// Every key of [`super::TrainConfig`]. A test holds the two together.
pub(super) const KEYS: [&str; 33] = [
    "model",
    "vae",
    "data",
    "out",
    "rank",
    "alpha",
    "targets",
    "steps",
    "batch-size",
    "grad-accum",
    "lr",
    "lr-schedule",
    "warmup",
    "optimizer",
    "weight-decay",
    "betas",
    "eps",
    "max-grad-norm",
    "resolution",
    "crop",
    "flip",
    "prediction",
    "snr-gamma",
    "noise-offset",
    "caption-dropout",
    "checkpointing",
    "lora-order",
    "save-every",
    "keep",
    "sample-every",
    "sample-prompt",
    "seed",
    "precision",
];

/// Names of diffusers' and kohya's training scripts, with `-` for `_`.
const ALIASES: [(&str, &str); 25] = [
    ("pretrained-model-name-or-path", "model"),
    ("train-data-dir", "data"),
    ("output-dir", "out"),
    ("network-dim", "rank"),
    ("network-alpha", "alpha"),
    ("lora-alpha", "alpha"),
    ("max-train-steps", "steps"),
    ("train-batch-size", "batch-size"),
    ("gradient-accumulation-steps", "grad-accum"),
    ("learning-rate", "lr"),
    ("lr-scheduler", "lr-schedule"),
    ("lr-warmup-steps", "warmup"),
    ("optimizer-type", "optimizer"),
    ("adam-weight-decay", "weight-decay"),
    ("adam-epsilon", "eps"),
    ("random-flip", "flip"),
    ("prediction-type", "prediction"),
    ("min-snr-gamma", "snr-gamma"),
    ("caption-dropout-rate", "caption-dropout"),
    ("gradient-checkpointing", "checkpointing"),
    ("checkpointing-steps", "save-every"),
    ("save-every-n-steps", "save-every"),
    ("checkpoints-total-limit", "keep"),
    ("sample-every-n-steps", "sample-every"),
    ("mixed-precision", "precision"),
];

/// The same table under the keys of [`KEYS`], with values that other tools spell otherwise brought to ours.
///
/// # Errors
/// [`Error::Usage`] for an unknown key, with the closest known one, or for a key given twice.
pub(super) fn canonical(table: toml::Table) -> Result<toml::Table> {
    let mut result = toml::Table::new();
    for (given, value) in table {
        let spelled = given.replace('_', "-");
        let alias = ALIASES.iter().find(|(other, _)| *other == spelled);
        let key = alias.map_or(spelled.as_str(), |(_, key)| key);
        if !KEYS.contains(&key) {
            return Err(unknown(&given, &spelled));
        }
        let value = canonical_value(key, value)?;
        if result.insert(key.to_string(), value).is_some() {
            return Err(Error::Usage(format!("`{given}`: `{key}` is given twice, under two names")));
        }
    }
    Ok(result)
}

fn canonical_value(key: &str, value: toml::Value) -> Result<toml::Value> {
    use toml::Value;
    Ok(match (key, value) {
        ("lr-schedule", Value::String(name)) => Value::String(super::Shape::parse(&name)?.name().into()),
        ("optimizer", Value::String(name)) => Value::String(super::Optimizer::parse(&name)?.name().into()),
        // One prompt or target may stand without brackets; targets also as on the command line, with commas.
        ("targets", Value::String(list)) => Value::Array(list.split(',').map(|t| t.trim().into()).collect()),
        ("sample-prompt", Value::String(prompt)) => Value::Array(vec![Value::String(prompt)]),
        ("precision", Value::String(name)) if name == "no" => Value::String("f32".into()),
        ("precision", Value::String(name)) if name == "fp16" => Value::String("f16".into()),
        // `lr = 1` is a number too.
        (
            "alpha" | "lr" | "weight-decay" | "eps" | "max-grad-norm" | "snr-gamma" | "noise-offset"
            | "caption-dropout",
            Value::Integer(number),
        ) => Value::Float(number as f64),
        (_, value) => value,
    })
}

fn unknown(given: &str, spelled: &str) -> Error {
    let known = KEYS.iter().copied().chain(ALIASES.iter().map(|(alias, _)| *alias));
    let closest = known
        .map(|key| (strsim::jaro_winkler(spelled, key), key))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .expect("there are keys");
    Error::Usage(format!("unknown key `{given}`; the closest known one is `{}`", closest.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::TrainConfig;

    #[test]
    fn the_list_of_keys_is_the_list_of_fields() {
        let full = TrainConfig {
            vae: Some("v".into()),
            alpha: Some(1.0),
            resolution: Some(512),
            snr_gamma: Some(5.0),
            ..TrainConfig::default()
        };
        let table: toml::Table = full.to_toml().unwrap().parse().unwrap();
        let mut fields: Vec<&str> = table.keys().map(String::as_str).collect();
        let mut keys = KEYS.to_vec();
        fields.sort_unstable();
        keys.sort_unstable();
        assert_eq!(fields, keys);
        assert!(ALIASES.iter().all(|(alias, key)| KEYS.contains(key) && !KEYS.contains(alias)));
    }
}
