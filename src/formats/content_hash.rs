//! What tells one model from another: a hash of its files' content.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::formats::component::in_checkpoint;
use crate::formats::digest;

/// Bytes that are hashed apart, so that all processors share the work on a large file.
const BLOCK: u64 = 4 << 20;

/// The hash of the weights and configurations in `folders` (those that exist): names, lengths, and the SHA-256 of every
/// block. Where a folder lies does not matter. For components of a checkpoint the whole file is hashed, once.
///
/// # Errors
/// [`Error::Io`].
pub fn of_folders(folders: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    let mut seen = Vec::new();
    for folder in folders {
        if let Some((file, component)) = in_checkpoint(folder) {
            hash.update(component);
            if !seen.contains(&file) {
                of_file(&mut hash, file).map_err(|e| Error::io(file, e))?;
                seen.push(file);
            }
        }
        if !folder.is_dir() {
            continue;
        }
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .map_err(|e| Error::io(folder, e))?;
        files.retain(|file| file.is_file() && matters(file));
        files.sort();
        hash.update((files.len() as u64).to_le_bytes());
        for file in &files {
            let name = file.file_name().unwrap_or_default().as_encoded_bytes();
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            of_file(&mut hash, file).map_err(|e| Error::io(file, e))?;
        }
    }
    Ok(digest::hex(hash.finalize()))
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn of_bytes(bytes: &[u8]) -> String {
    digest::hex(Sha256::digest(bytes))
}

/// What networks and tokenizers are read from; pickles and notes beside them are not.
fn matters(file: &Path) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str());
    matches!(ending, Some("safetensors" | "json" | "txt"))
}

fn of_file(hash: &mut Sha256, path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let blocks: Vec<_> = (0..len.div_ceil(BLOCK))
        .into_par_iter()
        .map(|i| {
            let mut block = vec![0; BLOCK.min(len - i * BLOCK) as usize];
            file.read_exact_at(&mut block, i * BLOCK)?;
            Ok(Sha256::digest(&block))
        })
        .collect::<std::io::Result<_>>()?;
    hash.update(len.to_le_bytes());
    blocks.iter().for_each(|block| hash.update(block));
    Ok(())
}
