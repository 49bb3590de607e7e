//! What is in a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::Checkpoint;
use crate::error::Result;
use crate::formats::digest;

/// What `selma inspect` prints of a checkpoint.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub file: String,
    /// Of the whole file.
    pub sha256: String,
    pub family: &'static str,
    /// `epsilon` or `v_prediction`.
    pub prediction: String,
    pub components: BTreeMap<String, ComponentSummary>,
    pub metadata: BTreeMap<String, String>,
    /// Tensors that belong to none of the components.
    pub unused: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub struct ComponentSummary {
    /// Of the names that diffusers gives them.
    pub tensors: usize,
    pub values: usize,
    /// Values of each type that they are stored in.
    pub types: BTreeMap<String, usize>,
}

/// Sums up a checkpoint from its header.
///
/// # Errors
/// As [`Checkpoint::open`].
pub fn inspect(path: &Path) -> Result<Summary> {
    let checkpoint = Checkpoint::open(path)?;
    let mut components = BTreeMap::new();
    for (component, tensors) in &checkpoint.index {
        let summary: &mut ComponentSummary = components.entry(component.to_string()).or_default();
        for source in tensors.values() {
            let stored = checkpoint.file.shape(&source.key).unwrap_or_default();
            let values = source.shape(stored).iter().product::<usize>();
            summary.tensors += 1;
            summary.values += values;
            *summary.types.entry(checkpoint.file.type_name(&source.key)).or_default() += values;
        }
    }
    let prediction = checkpoint.config("scheduler")?["prediction_type"].clone();
    Ok(Summary {
        file: path.display().to_string(),
        sha256: digest::file(path)?,
        family: checkpoint.kind.name(),
        prediction: prediction.as_str().unwrap_or("epsilon").into(),
        components,
        metadata: checkpoint.file.metadata().clone(),
        unused: checkpoint.unused,
    })
}
