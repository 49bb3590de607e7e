//! Every reply of a writer, on disk the moment it arrives: one JSON object a line. A recording gives the same prompts
//! again without the writer, and an interrupted run goes on from its own.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::formats::jsonl;

/// One request and its reply. Only `reply` is needed: a file of replies from elsewhere can be replayed too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the request, from 0; without it, lines count.
    pub request: Option<u64>,
    /// The model that was asked.
    pub llm_model: Option<String>,
    /// The text of the request.
    pub prompt: Option<String>,
    pub reply: String,
    /// `length` where the token limit cut the reply.
    pub finish_reason: Option<String>,
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    /// The tokens are estimates.
    #[serde(default)]
    pub estimated: bool,
}

/// The replies of a file by request.
///
/// # Errors
/// Those of [`jsonl::read`]; [`Error::File`] if two lines are the same request, or there is none.
pub fn read(path: &Path) -> Result<HashMap<u64, Record>> {
    let mut records = HashMap::new();
    for (i, (line, record)) in jsonl::read::<Record>(path)?.into_iter().enumerate() {
        let request = record.request.unwrap_or(i as u64);
        if records.insert(request, record).is_some() {
            return Err(Error::file(
                path,
                format!("line {line}: request {request} is there twice"),
            ));
        }
    }
    if records.is_empty() {
        return Err(Error::file(
            path,
            "holds no replies; expected lines such as {\"reply\": \"4. A caption ...\"}",
        ));
    }
    Ok(records)
}

/// A recording that is being written. One process at a time: the file is locked.
pub struct Recorder {
    path: PathBuf,
    file: Mutex<File>,
}

impl Recorder {
    /// Opens or creates the file, and returns what it holds. A broken last line (a run was killed as it wrote) is cut.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] if another process writes it, or an earlier line is broken.
    pub fn open(path: &Path) -> Result<(Self, HashMap<u64, Record>)> {
        let io = |e| Error::io(path, e);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io)?;
        file.try_lock()
            .map_err(|_| Error::file(path, "another selma writes to it; wait for that, or use another --out"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        file.set_len(whole as u64).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let records = if whole == 0 { HashMap::new() } else { read(path)? };
        let recorder = Self {
            path: path.into(),
            file: Mutex::new(file),
        };
        Ok((recorder, records))
    }

    /// Appends a line, and returns when it is on disk.
    ///
    /// # Errors
    /// [`Error::Io`], for instance when the disk is full.
    pub fn append(&self, record: &Record) -> Result<()> {
        let io = |e| Error::io(&self.path, e);
        let mut line = serde_json::to_vec(record).map_err(|e| Error::file(&self.path, e.to_string()))?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).map_err(io)?;
        file.sync_data().map_err(io)
    }
}
