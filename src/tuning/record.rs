//! What a run chose, in a file of the run: a line for how it chooses, then one for each case. A run that goes on obeys it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Mode;
use crate::device::gpu::choice::{Case, Choice};
use crate::error::{Error, Result};

pub struct Record {
    path: PathBuf,
    pub mode: Mode,
    chosen: HashMap<Case, Choice>,
    file: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kernels: Mode,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    case: Case,
    choice: Choice,
}

impl Record {
    /// Opens or creates the file; `mode` is that of a new one. With `anew` what is there is forgotten.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] for one that is damaged.
    pub fn open(path: &Path, anew: bool, mode: Mode) -> Result<Self> {
        let io = |e| Error::io(path, e);
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(path).map_err(io)?;
        if anew {
            file.set_len(0).map_err(io)?;
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        // A killed run may have left half a line.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64).map_err(io)?;
        let mut record = Self { path: path.into(), mode, chosen: HashMap::new(), file };
        let mut lines = text[..whole].lines();
        let Some(first) = lines.next() else {
            record.append(&Header { kernels: mode })?;
            return Ok(record);
        };
        let damaged = |e: serde_json::Error| {
            let message = format!("not what a run writes down of its kernels ({e}); start anew with another --out");
            Error::file(path, message)
        };
        record.mode = serde_json::from_str::<Header>(first).map_err(damaged)?.kernels;
        for line in lines {
            let Line { case, choice } = serde_json::from_str(line).map_err(damaged)?;
            if case.is_sound() && case.permits(choice) {
                record.chosen.entry(case).or_insert(choice);
            }
        }
        Ok(record)
    }

    pub fn choice(&self, case: &Case) -> Option<Choice> {
        self.chosen.get(case).copied()
    }

    /// Writes down what is chosen, unless something is.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn note(&mut self, case: &Case, choice: Choice) -> Result<()> {
        if self.chosen.contains_key(case) {
            return Ok(());
        }
        self.append(&Line { case: case.clone(), choice })?;
        self.chosen.insert(case.clone(), choice);
        Ok(())
    }

    fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|e| Error::Failed(e.to_string()))?;
        // One write: lines of other processes in the same run stay whole.
        self.file.write_all(format!("{text}\n").as_bytes()).map_err(|e| Error::io(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::choice::Operation;
    use crate::dtype::DType;

    fn case(m: usize) -> Case {
        let sizes = vec![m, 264, 128, 0];
        Case { operation: Operation::MatmulNt, dtype: DType::Bf16, sizes, added: Vec::new(), any: false }
    }

    #[test]
    fn a_record_is_obeyed_and_half_a_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernels.jsonl");
        let [large, tall] = ["large", "tall"].map(|name| name.parse().unwrap());
        let mut record = Record::open(&path, false, Mode::Proved).unwrap();
        record.note(&case(1), large).unwrap();
        record.note(&case(1), tall).unwrap();
        drop(record);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{\"case\":{{\"opera")).unwrap();
        let mut record = Record::open(&path, false, Mode::Model).unwrap();
        assert_eq!((record.mode, record.choice(&case(1)), record.choice(&case(2))), (Mode::Proved, Some(large), None));
        record.note(&case(2), tall).unwrap();
        drop(record);
        assert_eq!(Record::open(&path, false, Mode::Model).unwrap().choice(&case(2)), Some(tall));
        let anew = Record::open(&path, true, Mode::Reference).unwrap();
        assert_eq!((anew.mode, anew.choice(&case(1))), (Mode::Reference, None));
    }

    #[test]
    fn a_damaged_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernels.jsonl");
        std::fs::write(&path, "{\"kernels\":\"guessed\"}\n").unwrap();
        let error = Record::open(&path, false, Mode::Proved).err().unwrap().to_string();
        assert!(error.contains("kernels.jsonl") && error.contains("start anew with another --out"), "{error}");
    }
}
