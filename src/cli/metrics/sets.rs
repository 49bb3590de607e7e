//! What the user named: folders of pictures, features, statistics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::metrics::Features;
use crate::metrics::measure::Set;
use crate::metrics::statistics::Statistics;

/// Which network made features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    Inception,
    Clip,
}

const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// A picture and the one that it is compared with.
pub(super) struct Named {
    pub name: String,
    pub image: PathBuf,
    pub reference: PathBuf,
}

/// Features or statistics of a file.
///
/// # Errors
/// As [`Features::read`] and [`Statistics::read`].
pub(super) fn read(path: &Path) -> Result<Set> {
    let npz = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    match npz {
        true => Statistics::read(path).map(Set::Statistics),
        false => Features::read(path).map(Set::Features),
    }
}

/// The pictures of a folder by name.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where there is none.
pub(super) fn pictures(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let mut pictures = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if ENDINGS.contains(&&*ending) && path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            pictures.insert(name, path);
        }
    }
    match pictures.is_empty() {
        true => Err(Error::file(dir, "no pictures here; expected .png, .jpg, .webp or .bmp files")),
        false => Ok(pictures),
    }
}

/// The pictures with a reference of the same file name, and how many have none.
///
/// # Errors
/// As [`pictures`]; [`Error::File`] where no name is in both folders.
pub(super) fn pairs(images: &Path, reference: &Path) -> Result<(Vec<Named>, usize)> {
    let (ours, mut theirs) = (pictures(images)?, pictures(reference)?);
    let all = ours.len();
    let pair = |(name, image): (String, PathBuf)| Some(Named { reference: theirs.remove(&name)?, name, image });
    let pairs: Vec<Named> = ours.into_iter().filter_map(pair).collect();
    if pairs.is_empty() {
        let message = format!("no picture has the name of one in {}", reference.display());
        return Err(Error::file(images, message));
    }
    let alone = all - pairs.len();
    Ok((pairs, alone))
}
