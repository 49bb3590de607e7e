//! `metrics.json`: what was measured, by which rule, from how many images.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::formats::{atomic, jsonl};

/// One number of a set of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    pub name: String,
    /// Which of several definitions: the resizing rule of FID, the model of a CLIP similarity.
    pub rule: Option<String>,
    /// `None` where it is undefined for these images.
    pub value: Option<f64>,
    /// Over subsets (KID), or over images and prompts (means).
    pub std: Option<f64>,
    /// 95 % of means over as many prompts drawn with replacement; images of one prompt are drawn together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Images of the two sets; the second is `None` where a statistics file does not say, or there is no second set.
    pub n: [Option<usize>; 2],
    pub weights_sha256: Option<String>,
    pub notes: Vec<String>,
}

impl Metric {
    pub fn new(name: &str, value: Option<f64>, n: [Option<usize>; 2]) -> Self {
        Self {
            name: name.into(),
            rule: None,
            value,
            std: None,
            interval: None,
            n,
            weights_sha256: None,
            notes: Vec::new(),
        }
    }

    /// The mean and population standard deviation of values that are not `None`; a note counts the others.
    pub fn mean(name: &str, values: &[Option<f64>], n: [Option<usize>; 2]) -> Self {
        let there: Vec<f64> = values.iter().flatten().copied().collect();
        let summary = super::kid::summary(&there);
        let mut metric = Self::new(name, summary.map(|s| s.mean), n);
        metric.std = summary.map(|s| s.std);
        let undefined = values.len() - there.len();
        if undefined > 0 {
            metric.notes.push(format!("mean of {}; undefined for {undefined}", there.len()));
        }
        metric
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// Writes the metrics as one JSON list.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, metrics: &[Metric]) -> Result<()> {
    let text = serde_json::to_string_pretty(metrics).map_err(|e| Error::file(path, e.to_string()))?;
    atomic::write(path, |w| writeln!(w, "{text}"))
}

/// Reads what [`write`](fn@write) wrote.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`].
pub fn read(path: &Path) -> Result<Vec<Metric>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, format!("not a metrics file: {e}")))
}

/// Writes the scores of every image, a line each.
///
/// # Errors
/// [`Error::Io`].
pub fn write_images(path: &Path, rows: &[serde_json::Value]) -> Result<()> {
    jsonl::write(path, rows)
}
