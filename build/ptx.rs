//! The kernels as PTX, for builds without nvcc: `kernels/ptx/`, which `.ci/ptx` writes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::scan::Source;

/// Packed PTX of each file, in the order of `SCALARS`.
pub struct Shipped {
    /// The version of CUDA that made it.
    pub toolkit: (i32, i32),
    pub images: Vec<(String, Vec<Option<PathBuf>>)>,
    /// For compute capability 9.0 alone, of those files that have it.
    pub images_90: Vec<(String, Vec<Option<PathBuf>>)>,
}

/// The shipped PTX.
///
/// # Errors
/// A sentence where there is none, or where it was made from other kernels than these.
pub fn shipped(kernels: &Path, files: &[Source]) -> Result<Shipped, String> {
    let folder = kernels.join("ptx");
    let remedy = ".ci/ptx makes it";
    let sources = folder.join("SOURCES");
    let said = fs::read_to_string(&sources).map_err(|e| format!("{}: {e}; {remedy}", sources.display()))?;
    let mut lines = said.lines();
    let toolkit = lines.next().and_then(|line| {
        let (major, rest) = line.strip_prefix("NVRTC ")?.split_once('.')?;
        Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
    });
    let toolkit = toolkit.ok_or_else(|| format!("{}: names no version of NVRTC; {remedy}", sources.display()))?;
    if lines.next() != Some(&content_hash(kernels)?) {
        return Err(format!("the PTX in {} was made from other kernels than these; {remedy} anew", folder.display()));
    }
    let mut images = Vec::new();
    let mut images_90 = Vec::new();
    for file in files {
        let path = |suffix: &str| {
            let path =
                |scalar: Option<(&str, &str)>| Some(folder.join(format!("{}_{}{suffix}.ptx.z", scalar?.0, file.stem)));
            file.scalars().map(path).to_vec()
        };
        let (plain, own) = (path(""), path(".90a"));
        let first_missing = |paths: &[Option<PathBuf>]| paths.iter().flatten().find(|path| !path.is_file()).cloned();
        let has_own = first_missing(&own).is_none();
        let needed = if file.is_hopper() { &own } else { &plain };
        if let Some(path) = first_missing(needed) {
            return Err(format!("{} is missing; {remedy}", path.display()));
        }
        if !file.is_hopper() {
            images.push((file.stem.clone(), plain));
        }
        if has_own {
            images_90.push((file.stem.clone(), own));
        }
    }
    Ok(Shipped { toolkit, images, images_90 })
}

/// FNV-1a of names and contents of the kernel files and headers, as `.ci/ptx` computes it.
fn content_hash(kernels: &Path) -> Result<String, String> {
    let entries = fs::read_dir(kernels).map_err(|e| format!("{}: {e}", kernels.display()))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    let mut paths = paths.map_err(|e| format!("{}: {e}", kernels.display()))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "cu" || extension == "h"));
    paths.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes.iter().chain(&[0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for path in paths {
        add(path.file_name().unwrap_or_default().as_encoded_bytes());
        add(&fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    Ok(format!("{hash:016x}"))
}
