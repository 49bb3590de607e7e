//! Resumable state: master copy, moments and step in one safetensors file, `state/step-NNNNNNNN.safetensors`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::parameters::FlatParameters;
use crate::error::{Error, Result};
use crate::formats::safetensors::{self, Safetensors};
use crate::tensor::{DType, Tensor};

const BUFFERS: [&str; 3] = ["master", "first_moment", "second_moment"];

/// Writes the state of `flat` and removes all but the newest `keep` states. `fingerprint` names what the run computes:
/// a state resumes only the run it belongs to.
pub fn save(dir: &Path, flat: &FlatParameters, fingerprint: &str, keep: usize) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let tensor = |values: &[f32]| Tensor::new(values.to_vec(), &[values.len()]);
    let values = [&flat.master, &flat.first_moment, &flat.second_moment];
    let tensors: Vec<_> = BUFFERS
        .iter()
        .zip(values)
        .map(|(name, v)| (name.to_string(), tensor(v)))
        .collect();
    let metadata = BTreeMap::from([
        ("selma.step".to_string(), flat.step.to_string()),
        ("selma.run".to_string(), fingerprint.to_string()),
    ]);
    let path = dir.join(format!("step-{:08}.safetensors", flat.step));
    safetensors::write(&path, &tensors, &metadata)?;
    let states = list(dir)?;
    for old in &states[..states.len().saturating_sub(keep)] {
        std::fs::remove_file(old).map_err(|e| Error::io(old, e))?;
    }
    Ok(path)
}

/// States in `dir`, oldest first.
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

/// Puts a saved state into `flat`.
///
/// # Errors
/// [`Error::File`] for a state of another run, or one that does not fit the parameters.
pub fn load(path: &Path, flat: &mut FlatParameters, fingerprint: &str) -> Result<()> {
    let file = Safetensors::open(path)?;
    if file.metadata().get("selma.run").map(String::as_str) != Some(fingerprint) {
        let message = "this state belongs to a run with other settings, data or model; resume with the settings in \
                       config.toml, or start anew in another folder";
        return Err(Error::file(path, message));
    }
    let step = file.metadata().get("selma.step").and_then(|s| s.parse().ok());
    flat.step = step.ok_or_else(|| Error::file(path, "no step in the metadata"))?;
    for (name, into) in BUFFERS
        .iter()
        .zip([&mut flat.master, &mut flat.first_moment, &mut flat.second_moment])
    {
        let tensor = file.tensor(name)?;
        if tensor.dtype() != DType::F32 || tensor.len() != into.len() {
            return Err(Error::file(
                path,
                format!("{name} does not fit the {} trained values", into.len()),
            ));
        }
        into.copy_from_slice(tensor.data());
    }
    flat.publish();
    Ok(())
}
