//! What the frozen encoders make of images and captions, kept on disk under a hash of everything that it depends on.
//! An entry is a safetensors file whose content is checked by a checksum; a damaged one counts as absent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::formats::digest;
use crate::formats::safetensors::{self, Safetensors};
use crate::tensor::Tensor;

/// Changes when entries written before must not be read any more.
const VERSION: &str = "selma latent cache 1";

/// A folder of entries. Several runs may share it: entries are written whole and never change.
#[derive(Debug)]
pub struct LatentCache {
    dir: PathBuf,
    damaged: AtomicUsize,
}

/// The name of an entry: a SHA-256 in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// The VAE's posterior of one image.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// `[h, w, c]`, before the scaling factor.
    pub mean: Tensor,
    /// As `mean`.
    pub std: Tensor,
}

/// The text encoders' output for one caption.
#[derive(Debug, Clone)]
pub struct TextStates {
    /// `[77, d]`.
    pub context: Tensor,
    /// `[p]`, of SDXL.
    pub pooled: Option<Tensor>,
}

impl Key {
    /// Of a posterior: the file's bytes, [`super::preprocess::CropBox::content`], and what tells one VAE (weights and
    /// precision) from another.
    pub fn posterior(image: &[u8], transform: &str, vae: &str) -> Self {
        Self::of(&[b"posterior", image, transform.as_bytes(), vae.as_bytes()])
    }

    /// Of text states: the caption, and what tells one set of encoders from another.
    pub fn text(caption: &str, encoder: &str) -> Self {
        Self::of(&[b"text", caption.as_bytes(), encoder.as_bytes()])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in [VERSION.as_bytes()].iter().chain(parts) {
            // With lengths, so that no two lists of parts run together to the same bytes.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(digest::hex(hash.finalize()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LatentCache {
    /// Opens or creates the folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        Ok(Self { dir: dir.into(), damaged: AtomicUsize::new(0) })
    }

    /// The posterior under `key`, if there is a sound one.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is there but cannot be read.
    pub fn posterior(&self, key: &Key) -> Result<Option<Posterior>> {
        let Some(mut entry) = self.load(key)? else {
            return Ok(None);
        };
        match (entry.remove("mean"), entry.remove("std")) {
            (Some(mean), Some(std)) if mean.shape() == std.shape() => Ok(Some(Posterior { mean, std })),
            _ => Ok(self.damage()),
        }
    }

    /// # Errors
    /// [`Error::Io`], for example on a full disk.
    pub fn put_posterior(&self, key: &Key, posterior: &Posterior) -> Result<()> {
        self.store(key, &[("mean", &posterior.mean), ("std", &posterior.std)])
    }

    /// The text states under `key`, if there are sound ones.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is there but cannot be read.
    pub fn text(&self, key: &Key) -> Result<Option<TextStates>> {
        let Some(mut entry) = self.load(key)? else {
            return Ok(None);
        };
        let pooled = entry.remove("pooled");
        match entry.remove("context") {
            Some(context) => Ok(Some(TextStates { context, pooled })),
            None => Ok(self.damage()),
        }
    }

    /// # Errors
    /// [`Error::Io`], for example on a full disk.
    pub fn put_text(&self, key: &Key, states: &TextStates) -> Result<()> {
        match &states.pooled {
            Some(pooled) => self.store(key, &[("context", &states.context), ("pooled", pooled)]),
            None => self.store(key, &[("context", &states.context)]),
        }
    }

    /// Entries found broken so far: they were computed again, and a run mentions them because disks that lose bytes
    /// rarely lose them once.
    pub fn damaged(&self) -> usize {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Where the entry of `key` lies.
    pub fn path(&self, key: &Key) -> PathBuf {
        // Two levels: folders of a hundred thousand files are slow on some file systems.
        self.dir.join(&key.0[..2]).join(format!("{}.safetensors", key.0))
    }

    fn store(&self, key: &Key, tensors: &[(&str, &Tensor)]) -> Result<()> {
        let path = self.path(key);
        let folder = path.parent().expect("an entry lies in a folder");
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let tensors: Vec<_> = tensors.iter().map(|&(name, t)| (name.to_string(), t.clone())).collect();
        let mut metadata = BTreeMap::from([("key".to_string(), key.0.clone())]);
        for (name, tensor) in &tensors {
            metadata.insert(checksum_key(name), checksum(tensor));
        }
        safetensors::write(&path, &tensors, &metadata)
    }

    fn load(&self, key: &Key) -> Result<Option<BTreeMap<String, Tensor>>> {
        let path = self.path(key);
        match path.metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&path, e)),
            Ok(_) => {}
        }
        match sound_entry(&path, key) {
            Ok(Some(entry)) => Ok(Some(entry)),
            Ok(None) | Err(Error::File { .. }) => Ok(self.damage()),
            Err(e) => Err(e),
        }
    }

    fn damage<T>(&self) -> Option<T> {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// The tensors of an entry, or none where the key or a checksum is not the right one.
fn sound_entry(path: &Path, key: &Key) -> Result<Option<BTreeMap<String, Tensor>>> {
    let file = Safetensors::open(path)?;
    if file.metadata().get("key") != Some(&key.0) {
        return Ok(None);
    }
    let mut entry = BTreeMap::new();
    for name in file.names() {
        let tensor = file.tensor(name)?;
        if file.metadata().get(&checksum_key(name)) != Some(&checksum(&tensor)) {
            return Ok(None);
        }
        entry.insert(name.to_string(), tensor);
    }
    Ok(Some(entry))
}

fn checksum_key(name: &str) -> String {
    format!("{name}.crc32c")
}

/// Of shape and bytes.
fn checksum(tensor: &Tensor) -> String {
    format!("{:?} {:08x}", tensor.shape(), crc32c::crc32c(tensor.bytes()))
}
