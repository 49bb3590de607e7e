//! The keys of a pipeline file.

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::train::config::TrainConfig;

const TOP: [&str; 11] =
    ["skills", "seed", "vocab", "prompts", "images", "select", "experts", "choose", "merge", "evaluate", "judge"];
const DRAW: [&str; 10] = [
    "steps",
    "guidance",
    "guidance-rescale",
    "scheduler",
    "width",
    "height",
    "negative",
    "clip-skip",
    "long-prompts",
    "batch-size",
];
/// The keys of each table but `[experts]`, whose other keys are those of `selma train`.
const TABLES: [(&str, &[&str]); 7] = [
    (
        "prompts",
        &[
            "count",
            "writer",
            "llm",
            "llm-model",
            "replay",
            "max-similarity",
            "strict-words",
            "parallel",
            "max-stalled",
            "temperature",
            "max-tokens",
            "timeout",
            "retries",
            "max-requests",
            "max-cost",
            "input-price",
            "output-price",
        ],
    ),
    ("images", &["model", "vae"]),
    ("select", &["rule"]),
    ("merge", &["method", "rank", "max-error", "density", "majority-sign"]),
    ("choose", &["every", "prompts"]),
    ("evaluate", &["benchmark", "questions", "dependencies", "with-experts", "prompts", "seeds"]),
    (
        "judge",
        &[
            "url",
            "model",
            "answers",
            "parallel",
            "timeout",
            "retries",
            "max-tokens",
            "max-requests",
            "max-cost",
            "input-price",
            "output-price",
        ],
    ),
];
/// Settings of `selma train` that the run itself decides.
const DECIDED: [&str; 6] = ["data", "out", "seed", "precision", "sample-every", "sample-prompt"];

/// # Errors
/// [`Error::Usage`] for a key that no table has, with the closest one that it has.
pub(super) fn check(table: &toml::Table) -> Result<()> {
    known("", table, &TOP)?;
    for (name, keys) in TABLES {
        let draws = matches!(name, "images" | "evaluate");
        let all = [keys, if draws { &DRAW } else { &[] }].concat();
        match table.get(name) {
            Some(toml::Value::Table(inner)) => known(&format!("[{name}]: "), inner, &all)?,
            Some(_) => return Err(Error::Usage(format!("{name}: expected a table, [{name}]"))),
            None => {}
        }
    }
    Ok(())
}

fn known(place: &str, table: &toml::Table, keys: &[&str]) -> Result<()> {
    let Some(given) = table.keys().find(|key| !keys.contains(&key.as_str())) else {
        return Ok(());
    };
    let similarity = |key: &&&str| strsim::jaro_winkler(given, key);
    let closest = keys.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let closest = closest.expect("there are keys");
    Err(Error::Usage(format!("{place}unknown key `{given}`; the closest known one is `{closest}`")))
}

/// Takes the value of `key` out of `table`.
///
/// # Errors
/// [`Error::Usage`] for a value of the wrong type.
pub(super) fn take<T: DeserializeOwned>(table: &mut toml::Table, key: &str) -> Result<Option<T>> {
    let Some(value) = table.remove(key) else {
        return Ok(None);
    };
    let wrong = |e: toml::de::Error| Error::Usage(format!("{key}: {}", e.message()));
    value.try_into().map(Some).map_err(wrong)
}

/// The settings in `[experts]` on top of those of its `preset`, and `all-in-one`, which is on where left out.
///
/// # Errors
/// [`Error::Usage`] as for [`TrainConfig::from_toml`].
pub(super) fn experts(table: &mut toml::Table) -> Result<(TrainConfig, bool)> {
    let mut given: toml::Table = take(table, "experts")?.unwrap_or_default();
    let place = |e| match e {
        Error::Usage(message) => Error::Usage(format!("[experts]: {message}")),
        other => other,
    };
    let preset: Option<String> = take(&mut given, "preset").map_err(place)?;
    let all_in_one = take(&mut given, "all-in-one").map_err(place)?.unwrap_or(true);
    if let Some(key) = given.keys().find(|key| DECIDED.contains(&key.replace('_', "-").as_str())) {
        return Err(Error::Usage(format!("[experts]: `{key}` is decided by the run; leave it out")));
    }
    let mut base = match preset {
        Some(name) => TrainConfig::preset(&name).map_err(place)?,
        None => TrainConfig::default(),
    };
    // In a run a state serves nothing but to go on after an interruption.
    base.keep = 1;
    Ok((base.with(given).map_err(place)?, all_in_one))
}

#[cfg(test)]
mod tests {
    use super::super::config::MergeSettings;
    use super::super::settings::{
        ChooseSettings, EvaluateSettings, ImageSettings, JudgeSettings, PromptSettings, SelectSettings,
    };
    use super::*;

    /// Every key is a field: a list of lists is no value of any field.
    #[test]
    fn the_lists_of_keys_are_the_lists_of_fields() {
        let refused = |table: &str, key: &str| -> bool {
            let odd = toml::Value::Array(vec![toml::Value::Array(Vec::new())]);
            let one = toml::Value::Table(toml::Table::from_iter([(key.to_string(), odd)]));
            match table {
                "prompts" => one.try_into::<PromptSettings>().is_err(),
                "images" => one.try_into::<ImageSettings>().is_err(),
                "select" => one.try_into::<SelectSettings>().is_err(),
                "evaluate" => one.try_into::<EvaluateSettings>().is_err(),
                "choose" => one.try_into::<ChooseSettings>().is_err(),
                "judge" => one.try_into::<JudgeSettings>().is_err(),
                "merge" => one.try_into::<MergeSettings>().is_err(),
                other => panic!("no table {other}"),
            }
        };
        for (table, keys) in TABLES {
            let draws = matches!(table, "images" | "evaluate");
            for key in [keys, if draws { &DRAW } else { &[] }].concat() {
                assert!(refused(table, key), "{key} is no field of {table}");
            }
        }
        let full = toml::Table::try_from(PromptSettings::default()).unwrap();
        assert!(full.keys().all(|key| TABLES[0].1.contains(&key.as_str())));
    }
}
