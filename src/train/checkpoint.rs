//! Resumable state: master copy, moments (in 8 bits as scales and codes, eight to a word), average and loss scale where
//! there are any, and step, in one safetensors file, `state/step-NNNNNNNN.safetensors`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::TrainConfig;
use super::parameters::FlatParameters;
use crate::error::{Error, Result};
use crate::formats::safetensors::{self, Safetensors};
use crate::tensor::{DType, Tensor};

/// What a run computes with: a state resumes only the run that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunIdentity {
    /// The settings that decide numbers, as TOML.
    pub settings: String,
    /// The hash of the model's files.
    pub model: String,
    /// The hash of images and captions.
    pub data: String,
}

impl RunIdentity {
    fn entries(&self) -> [(&'static str, &String); 3] {
        [("selma.settings", &self.settings), ("selma.model", &self.model), ("selma.data", &self.data)]
    }
}

/// Writes the state of `flat` and removes all but the newest `keep` states.
///
/// # Errors
/// [`Error::Io`], for example on a full disk; the older states are then still there.
pub fn save(dir: &Path, flat: &FlatParameters, run: &RunIdentity, keep: usize) -> Result<PathBuf> {
    save_with(dir, flat, run, keep, &BTreeMap::new())
}

/// As [`save`], with more in the header.
///
/// # Errors
/// As [`save`].
pub fn save_with(
    dir: &Path,
    flat: &FlatParameters,
    run: &RunIdentity,
    keep: usize,
    more: &BTreeMap<String, String>,
) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let tensors = flat.saved()?;
    let mut metadata = more.clone();
    metadata.insert("selma.step".to_string(), flat.step.to_string());
    metadata.extend(run.entries().map(|(key, value)| (key.to_string(), value.clone())));
    metadata.extend(tensors.iter().map(|(name, t)| (checksum_key(name), checksum(t))));
    let path = dir.join(format!("step-{:08}.safetensors", flat.step));
    safetensors::write(&path, &tensors, &metadata)?;
    let states = list(dir)?;
    for old in &states[..states.len().saturating_sub(keep)] {
        std::fs::remove_file(old).map_err(|e| Error::io(old, e))?;
    }
    Ok(path)
}

/// States in `dir`, oldest first.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be read; one that is missing has none.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut states: Vec<PathBuf> = std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
        .map_err(|e| Error::io(dir, e))?;
    let is_state = |name: &str| name.starts_with("step-") && name.ends_with(".safetensors");
    states.retain(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(is_state));
    states.sort();
    Ok(states)
}

/// The step of a state, by its name.
pub fn step_of(state: &Path) -> Option<u64> {
    state.file_stem()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// A saved state, read and checked but not yet used.
pub struct State {
    path: PathBuf,
    pub step: u64,
    /// The settings of the run that saved it.
    pub settings: String,
    file: Safetensors,
}

impl State {
    /// Opens a state of `run`.
    ///
    /// # Errors
    /// [`Error::File`] for a state of another run, which says what differs, and for a damaged one.
    pub fn open(path: &Path, run: &RunIdentity) -> Result<Self> {
        let file = Safetensors::open(path).map_err(|e| match e {
            Error::File { message, .. } => damaged(path, &message),
            other => other,
        })?;
        for (key, value) in run.entries() {
            match file.metadata().get(key) {
                Some(saved) if saved == value => {}
                Some(saved) if key == "selma.settings" && differ_in_steps(saved, value) => {}
                Some(saved) => return Err(Error::file(path, another_run(key, saved, value))),
                None => return Err(damaged(path, &format!("no `{key}` in its header"))),
            }
        }
        let step = file.metadata().get("selma.step").and_then(|s| s.parse().ok());
        let settings = file.metadata().get("selma.settings").cloned().unwrap_or_default();
        let step = step.ok_or_else(|| damaged(path, "no step in its header"))?;
        Ok(Self { path: path.into(), step, settings, file })
    }

    /// Puts the state into `flat`.
    ///
    /// # Errors
    /// [`Error::File`] where it is damaged or does not fit.
    pub fn restore(&self, flat: &mut FlatParameters) -> Result<()> {
        flat.restore(self.step, |name, dtype, len| self.tensor(name, dtype, len))
    }

    fn tensor(&self, name: &str, dtype: DType, len: usize) -> Result<Tensor> {
        let tensor = self.file.tensor(name)?;
        if self.file.metadata().get(&checksum_key(name)) != Some(&checksum(&tensor)) {
            return Err(damaged(&self.path, &format!("`{name}` has another checksum")));
        }
        if tensor.dtype() != dtype || tensor.len() != len {
            let message = format!("`{name}` does not fit the values that are trained: {len} of it were expected");
            return Err(damaged(&self.path, &message));
        }
        Ok(tensor)
    }
}

/// Whether two settings of `selma train` are the same but for the number of steps. A setting that a version before this one
/// did not have was at its default.
fn differ_in_steps(saved: &str, present: &str) -> bool {
    let (Ok(saved), Ok(present)) = (TrainConfig::from_toml(saved), TrainConfig::from_toml(present)) else {
        return false;
    };
    TrainConfig { steps: present.steps, ..saved } == present
}

fn damaged(path: &Path, why: &str) -> Error {
    let message = format!("{why}; the state is damaged: remove it, and --resume goes on from the one before it");
    Error::file(path, message)
}

fn another_run(key: &str, saved: &str, present: &str) -> String {
    match key {
        "selma.data" => "the images or captions in --data are not those that this run began with; bring them back, or \
                         start anew with another --out"
            .into(),
        "selma.model" => {
            "the files of the model, its VAE or its tokenizer are not those that this run began with; bring \
                          them back, or start anew with another --out"
                .into()
        }
        _ => {
            let table = |text: &str| text.parse::<toml::Table>().unwrap_or_default();
            let (saved, present) = (table(saved), table(present));
            let keys = saved.keys().chain(present.keys());
            let changed = keys.into_iter().find(|key| saved.get(*key) != present.get(*key));
            let value = |table: &toml::Table, key: &str| table.get(key).map_or("not set".into(), ToString::to_string);
            let what = changed.map_or("the settings".into(), |key| {
                format!("`{key}` is {} and was {}", value(&present, key), value(&saved, key))
            });
            format!(
                "this run began with other settings: {what}; resume with those in config.toml, or start anew with \
                     another --out"
            )
        }
    }
}

fn checksum_key(name: &str) -> String {
    format!("{name}.crc32c")
}

fn checksum(tensor: &Tensor) -> String {
    format!("{:08x}", crc32c::crc32c(tensor.bytes()))
}
