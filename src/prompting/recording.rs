//! Every reply of a writer, on disk the moment it arrives: one JSON object a line. A recording gives the same prompts
//! again without the writer, and an interrupted run goes on from its own.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::llm::Usage;
use crate::error::{Error, Result};
use crate::formats::journal::Journal;
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

impl Record {
    /// What the reply took, as far as that is known.
    pub fn usage(&self) -> Usage {
        Usage {
            input: self.input_tokens.unwrap_or(0),
            output: self.output_tokens.unwrap_or(0),
            estimated: self.estimated,
        }
    }
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
            return Err(Error::file(path, format!("line {line}: request {request} is there twice")));
        }
    }
    if records.is_empty() {
        return Err(Error::file(path, "holds no replies; expected lines such as {\"reply\": \"4. A caption ...\"}"));
    }
    Ok(records)
}

/// A recording that is being written. One process at a time: the file is locked.
pub struct Recorder(Journal);

impl Recorder {
    /// Opens or creates the file, and returns what it holds. A broken last line (a run was killed as it wrote) is cut.
    ///
    /// # Errors
    /// As [`Journal::open`]; [`Error::File`] if an earlier line is broken.
    pub fn open(path: &Path) -> Result<(Self, HashMap<u64, Record>)> {
        let journal = Journal::open(path)?;
        let records = if journal.is_new { HashMap::new() } else { read(path)? };
        Ok((Self(journal), records))
    }

    /// Appends a line, and returns when it is on disk.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn append(&self, record: &Record) -> Result<()> {
        self.0.append(&json!(record))
    }
}
