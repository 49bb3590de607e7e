//! A folder of drawn pictures as `selma generate` leaves it: `metadata.jsonl`, a row a picture.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::data::dataset::within;
use crate::error::{Error, Result};
use crate::formats::jsonl;

/// One picture to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the folder.
    pub file_name: String,
    pub path: PathBuf,
    pub prompt: String,
    pub skill: Option<String>,
    /// What its noise was drawn from; where the row does not say, 0 and its place in the file.
    pub seed: u64,
    pub index: u64,
}

#[derive(Deserialize)]
struct Row {
    file_name: String,
    text: String,
    skill: Option<String>,
    seed: Option<u64>,
    index: Option<u64>,
}

/// The pictures that are there, and the names of those that are not.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the line for a record that is none, or a file outside the folder.
pub fn list(dir: &Path) -> Result<(Vec<Entry>, Vec<String>)> {
    let metadata = dir.join("metadata.jsonl");
    if !metadata.is_file() {
        let message =
            "no metadata.jsonl, which says which prompt each picture was drawn from; `selma generate` writes it";
        return Err(Error::file(dir, message));
    }
    let (mut entries, mut missing) = (Vec::new(), Vec::new());
    for (place, (line, row)) in jsonl::read::<Row>(&metadata)?.into_iter().enumerate() {
        let refuse = |why| Error::file(&metadata, format!("line {line}: file_name `{}` {why}", row.file_name));
        match within(dir, &row.file_name).map_err(refuse)? {
            None => missing.push(row.file_name),
            Some(path) => entries.push(Entry {
                file_name: row.file_name,
                path,
                prompt: row.text,
                skill: row.skill,
                seed: row.seed.unwrap_or(0),
                index: row.index.unwrap_or(place as u64),
            }),
        }
    }
    Ok((entries, missing))
}
