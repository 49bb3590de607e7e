//! The cache on disk.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::atomic;

/// The folder of one model.
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    pub fn new(cache: &Path, id: &str) -> Self {
        Self { root: cache.join(format!("models--{}", id.replace('/', "--"))) }
    }

    /// Where the commit that `main` meant at the last download lies.
    pub fn snapshot(&self) -> Option<PathBuf> {
        let commit = std::fs::read_to_string(self.root.join("refs/main")).ok()?;
        Some(self.root.join("snapshots").join(commit.trim())).filter(|folder| folder.is_dir())
    }

    /// Where a file's bytes go, its folder being there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blob(&self, hash: &str) -> Result<PathBuf> {
        let folder = self.root.join("blobs");
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(folder.join(hash))
    }

    /// Where a file of a snapshot lies.
    pub fn file(&self, commit: &str, name: &str) -> PathBuf {
        self.root.join("snapshots").join(commit).join(name)
    }

    /// Links a file of a snapshot to its blob.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn link(&self, commit: &str, name: &str, hash: &str) -> Result<PathBuf> {
        let path = self.file(commit, name);
        let folder = atomic::folder(&path);
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let up = "../".repeat(name.matches('/').count() + 2);
        match std::os::unix::fs::symlink(format!("{up}blobs/{hash}"), &path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(&path, e)),
            _ => Ok(path),
        }
    }

    /// Says that `main` is this commit, all of whose files that are wanted are there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn publish(&self, commit: &str) -> Result<PathBuf> {
        let refs = self.root.join("refs");
        std::fs::create_dir_all(&refs).map_err(|e| Error::io(&refs, e))?;
        atomic::write_bytes(&refs.join("main"), commit.as_bytes())?;
        Ok(self.root.join("snapshots").join(commit))
    }
}
