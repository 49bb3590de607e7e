//! The output folder of a run: one process at a time, and no leftovers of a killed one.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::atomic;

/// Holds the folder until dropped; the system lets go of it when the process ends, however it ends.
pub struct OutputFolder {
    path: PathBuf,
    _lock: File,
}

impl OutputFolder {
    /// Creates the folder where needed, locks it, and removes files that a killed run had not finished.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] where another run holds it.
    pub fn open(path: &Path) -> Result<Self> {
        let state = path.join("state");
        atomic::create_folder(path)?;
        atomic::create_folder(&state)?;
        let lock = File::create(state.join(".lock")).map_err(|e| Error::io(path, e))?;
        // A file system without locks is no reason not to train.
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            let message = "another selma train is writing into this folder; wait for it, or choose another --out";
            return Err(Error::file(path, message));
        }
        let mut folders = vec![path.into(), state, path.join("samples")];
        if let Ok(entries) = std::fs::read_dir(path.join("cache")) {
            folders.extend(entries.flatten().map(|entry| entry.path()));
        }
        for folder in folders {
            atomic::remove_leftovers(&folder)?;
        }
        Ok(Self { path: path.into(), _lock: lock })
    }

    /// A file or folder inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn states(&self) -> PathBuf {
        self.path.join("state")
    }
}
