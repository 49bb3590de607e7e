//! The built-in model's files inside the binary, and where they are unpacked: networks and tokenizers are read from
//! folders, this one like any other.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::formats::digest::hex;
use crate::formats::{atomic, cache};

/// What `--model` calls it. A folder of this name is `./shapes`.
pub const NAME: &str = "shapes";

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_bytes!(concat!("../../assets/shapes/", $path)).as_slice())),*]
    };
}

/// Paths in the folder, and contents. The index comes last: a folder with an index is a whole model.
static FILES: [(&str, &[u8]); 12] = files![
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "model_index.json",
];

/// The built-in model's folder in the user's cache: `$XDG_CACHE_HOME/selma` or `~/.cache/selma`.
///
/// # Errors
/// As [`unpack`]; [`Error::Failed`] where neither variable is set.
pub fn folder() -> Result<PathBuf> {
    let cache = cache::folder().ok_or_else(|| {
        Error::Failed("no place to unpack the built-in model: set HOME or XDG_CACHE_HOME to a folder".into())
    })?;
    unpack(&cache)
}

/// Writes what is missing or damaged of the model's folder into `cache`, and returns the folder. Its name is `shapes` in a
/// folder named after the content, so that binaries with other weights keep theirs.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn unpack(cache: &Path) -> Result<PathBuf> {
    let hash = hex(&digest()[..8]);
    let root = cache.join(hash).join(NAME);
    for (path, content) in FILES {
        let path = root.join(path);
        if std::fs::read(&path).is_ok_and(|there| there == content) {
            continue;
        }
        let folder = atomic::folder(&path);
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        atomic::write_bytes(&path, content)?;
    }
    Ok(root)
}

/// The SHA-256 of all paths and contents.
fn digest() -> [u8; 32] {
    let mut hash = Sha256::new();
    for (path, content) in FILES {
        for part in [path.as_bytes(), content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().into()
}
