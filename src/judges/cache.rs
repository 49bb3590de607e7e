//! What networks made of images and texts, in a file that grows as they work: a line a batch, so that a run that was
//! broken off goes on where it was, and an image is looked at once by each network.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::formats::journal::Journal;
use crate::formats::{digest, jsonl};

#[derive(Serialize, Deserialize)]
struct Record {
    /// [`Key`] -> little-endian f32 in base 64.
    values: HashMap<String, String>,
}

/// SHA-256 of everything that the values depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Of content, weights, recipe and whatever else decides.
    pub fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With lengths, so that no two lists of parts run together.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(digest::hex(hash.finalize()))
    }
}

pub struct ValueCache {
    journal: Journal,
    known: Mutex<HashMap<String, Vec<f32>>>,
}

impl ValueCache {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// As [`Journal::open`]; [`Error::File`] where it is another file.
    pub fn open(path: &Path) -> Result<Self> {
        let journal = Journal::open(path)?;
        let mut known = HashMap::new();
        if !journal.is_new {
            for (line, record) in jsonl::read::<Record>(path)? {
                for (key, text) in record.values {
                    let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len() % 4 == 0);
                    let bytes = bytes.ok_or_else(|| Error::file(path, format!("line {line}: damaged values")))?;
                    let values =
                        bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
                    known.insert(key, values.collect());
                }
            }
        }
        Ok(Self { journal, known: Mutex::new(known) })
    }

    pub fn get(&self, key: &Key) -> Option<Vec<f64>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&key.0).map(|values| values.iter().copied().map(f64::from).collect())
    }

    /// Keeps values, and returns when they are on disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put(&self, batch: &[(Key, Vec<f64>)]) -> Result<()> {
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let text =
            |values: &[f64]| STANDARD.encode(narrow(values).iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        let values = batch.iter().map(|(key, values)| (key.0.clone(), text(values))).collect();
        self.journal.append(&json!(Record { values }))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(batch.iter().map(|(key, values)| (key.0.clone(), narrow(values))));
        Ok(())
    }
}
