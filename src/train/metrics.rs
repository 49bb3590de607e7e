//! `metrics.jsonl`: one line a step, appended as training goes, and cut back to the resumed step so that no step
//! appears twice.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// The open file. Each record goes out as one write, so a killed run leaves at most one broken last line, which
/// [`Metrics::resume`] drops.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Starts an empty file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|e| Error::io(path, e))?;
        Ok(Self { path: path.into(), file })
    }

    /// Opens the file of an interrupted run and cuts it after the last line whose `step` is at most `step`. A file that
    /// is not there is started anew: metrics are a by-product, and a run goes on without the old ones.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] with the line number if a line before the cut is not a record.
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Self::create(path),
            Err(e) => return Err(Error::io(path, e)),
        };
        let keep = kept_bytes(path, &text, step)?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, e))?;
        file.set_len(keep as u64).map_err(|e| Error::io(path, e))?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends `{"step": step, name: value, ...}`. JSON has no NaN or infinity: those are written as `null`.
    ///
    /// # Errors
    /// [`Error::Io`], with the path, if the disk is full or the file is gone.
    pub fn append(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut record = Map::new();
        record.insert("step".into(), step.into());
        for &(name, value) in values {
            record.insert(name.into(), Number::from_f64(value).map_or(Value::Null, Value::Number));
        }
        let mut line = Value::Object(record).to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, e))
    }

    /// Waits until what was appended is on the disk: called where a checkpoint is saved.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn flush(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

/// Length of the leading lines that belong to steps up to `step`.
fn kept_bytes(path: &Path, text: &[u8], step: u64) -> Result<usize> {
    let mut keep = 0;
    for (i, line) in text.split_inclusive(|&b| b == b'\n').enumerate() {
        let found = serde_json::from_slice::<Value>(line).ok().and_then(|record| record.get("step")?.as_u64());
        match found {
            Some(found) if found <= step && line.ends_with(b"\n") => keep += line.len(),
            Some(_) => break,
            // A write that was cut short can only be the last line.
            None if keep + line.len() == text.len() => break,
            None => {
                let message = format!("line {} is not a record with a `step`; move the file away to go on", i + 1);
                return Err(Error::file(path, message));
            }
        }
    }
    Ok(keep)
}
