//! What the user named: folders of images, features, statistics.

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

/// An image and the one that it is compared with.
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

/// The images of a folder by name.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where there is none.
pub fn images(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let mut images = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if ENDINGS.contains(&&*ending) && path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            images.insert(name, path);
        }
    }
    match images.is_empty() {
        true => Err(Error::file(dir, "no images here; expected .png, .jpg, .webp or .bmp files")),
        false => Ok(images),
    }
}

/// The images with a reference of the same file name, and how many have none.
///
/// # Errors
/// As [`images`].
pub(super) fn pairs(images: &BTreeMap<String, PathBuf>, reference: &Path) -> Result<(Vec<Named>, usize)> {
    let mut theirs = self::images(reference)?;
    let pair = |(name, image): (&String, &PathBuf)| {
        let (name, image) = (name.clone(), image.clone());
        Some(Named { reference: theirs.remove(&name)?, name, image })
    };
    let pairs: Vec<Named> = images.iter().filter_map(pair).collect();
    let alone = images.len() - pairs.len();
    Ok((pairs, alone))
}
