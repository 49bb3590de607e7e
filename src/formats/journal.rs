//! A file that grows by a line of JSON at a time, each on disk before the next: what it records survives a kill.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::error::{Error, Result};

/// One process at a time writes to it: the file is locked.
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    /// Nothing was in it when it was opened.
    pub is_new: bool,
}

impl Journal {
    /// Opens or creates the file. A broken last line (a run was killed as it wrote) is cut.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] if another process writes it.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io(path, e);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        file.try_lock()
            .map_err(|_| Error::file(path, "another selma writes to it; wait for that, or use another --out"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        file.set_len(whole as u64).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok(Self { path: path.into(), file: Mutex::new(file), is_new: whole == 0 })
    }

    /// Appends a line, and returns when it is on disk.
    ///
    /// # Errors
    /// [`Error::Io`], for instance when the disk is full.
    pub fn append(&self, record: &Value) -> Result<()> {
        let io = |e| Error::io(&self.path, e);
        let line = format!("{record}\n");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes()).map_err(io)?;
        file.sync_data().map_err(io)
    }
}
