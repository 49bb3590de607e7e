//! SHA-256 of files.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Lower-case hex of a file's SHA-256.
///
/// # Errors
/// [`Error::Io`].
pub fn file(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    add(&mut hash, path)?;
    Ok(hex(hash.finalize()))
}

/// Of a safetensors file's tensors alone, without the header: what webui and model sites know a LoRA by.
///
/// # Errors
/// [`Error::Io`], also for a file shorter than its header says.
pub fn tensors(path: &Path) -> Result<String> {
    let io = |e| Error::io(path, e);
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(io)?;
    let body = u64::from_le_bytes(length).saturating_add(8);
    file.seek(SeekFrom::Start(body)).map_err(io)?;
    let mut hash = Sha256::new();
    read(&mut hash, &mut file).map_err(io)?;
    Ok(hex(hash.finalize()))
}

/// Of several files together, their names included; not of where they lie.
///
/// # Errors
/// [`Error::Io`].
pub fn files(paths: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in paths {
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update([0]);
        let length = add(&mut hash, path)?;
        hash.update(length.to_le_bytes());
    }
    Ok(hex(hash.finalize()))
}

fn add(hash: &mut Sha256, path: &Path) -> Result<u64> {
    let file = std::fs::File::open(path);
    file.and_then(|mut file| read(hash, &mut file)).map_err(|e| Error::io(path, e))
}

fn read(hash: &mut Sha256, file: &mut std::fs::File) -> std::io::Result<u64> {
    const BLOCK: usize = 1 << 20;
    let mut block = vec![0u8; BLOCK];
    let mut length = 0;
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(length);
        }
        hash.update(&block[..read]);
        length += read as u64;
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
