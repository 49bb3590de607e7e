//! The keys of a pipeline file.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::config::MergeSettings;
use super::settings::{ChooseSettings, EvaluateSettings, ImageSettings, JudgeSettings, PromptSettings, SelectSettings};
use crate::error::{Error, Result};
use crate::train::config::TrainConfig;

const TOP: [&str; 11] =
    ["skills", "seed", "vocab", "prompts", "images", "select", "experts", "choose", "merge", "evaluate", "judge"];

/// The keys of each table but `[experts]`, whose other keys are those of `selma train`: the fields of its settings.
fn tables() -> [(&'static str, Vec<String>); 7] {
    [
        ("prompts", fields(&PromptSettings::default())),
        ("images", fields(&ImageSettings::default())),
        ("select", fields(&SelectSettings { rule: String::new() })),
        ("merge", fields(&MergeSettings::default())),
        ("choose", fields(&ChooseSettings::default())),
        ("evaluate", fields(&EvaluateSettings::default())),
        ("judge", fields(&JudgeSettings::default())),
    ]
}

fn fields(settings: &impl Serialize) -> Vec<String> {
    let value = serde_json::to_value(settings).expect("settings are plain values");
    value.as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect()
}

/// Settings of `selma train` that the run itself decides.
const DECIDED: [&str; 10] = [
    "data",
    "out",
    "seed",
    "precision",
    "sample-every",
    "sample-prompt",
    "output-name",
    "format",
    "save-precision",
    "network-weights",
];

/// # Errors
/// [`Error::Usage`] for a key that no table has, with the closest one that it has.
pub(super) fn check(table: &toml::Table) -> Result<()> {
    known("", table, &TOP.map(String::from))?;
    for (name, keys) in tables() {
        match table.get(name) {
            Some(toml::Value::Table(inner)) => known(&format!("[{name}]: "), inner, &keys)?,
            Some(_) => return Err(Error::Usage(format!("{name}: expected a table, [{name}]"))),
            None => {}
        }
    }
    Ok(())
}

fn known(place: &str, table: &toml::Table, keys: &[String]) -> Result<()> {
    let Some(given) = table.keys().find(|key| !keys.contains(key)) else {
        return Ok(());
    };
    let similarity = |key: &&String| strsim::jaro_winkler(given, key);
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
