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

    /// Where the commit that a revision meant at the last download lies.
    pub fn snapshot_of(&self, revision: &str) -> Option<PathBuf> {
        let commit = std::fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
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
        linked(&self.file(commit, name), name, hash)
    }

    /// Where one variant of a revision lies, apart from the snapshot: that may have other weights as well.
    pub fn variant_of(&self, revision: &str, variant: &str) -> Option<PathBuf> {
        let commit = std::fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(self.variant(commit.trim(), variant)).filter(|folder| folder.is_dir())
    }

    fn variant(&self, commit: &str, variant: &str) -> PathBuf {
        self.root.join("variants").join(format!("{commit}-{variant}"))
    }

    /// As [`Cache::link`], of a file of one variant.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn link_variant(&self, commit: &str, variant: &str, name: &str, hash: &str) -> Result<PathBuf> {
        linked(&self.variant(commit, variant).join(name), name, hash)
    }

    /// Says that a revision is this commit, all of whose files that are wanted are there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn publish(&self, revision: &str, commit: &str) -> Result<PathBuf> {
        let path = self.root.join("refs").join(revision);
        let folder = atomic::folder(&path);
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        atomic::write_bytes(&path, commit.as_bytes())?;
        Ok(self.root.join("snapshots").join(commit))
    }
}

/// A link at `path`, which ends in `name`, to the blob `hash`.
fn linked(path: &Path, name: &str, hash: &str) -> Result<PathBuf> {
    let folder = atomic::folder(path);
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let up = "../".repeat(name.matches('/').count() + 2);
    match std::os::unix::fs::symlink(format!("{up}blobs/{hash}"), path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(path, e)),
        _ => Ok(path.into()),
    }
}
