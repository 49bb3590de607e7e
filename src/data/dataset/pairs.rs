//! Images of a folder and the captions beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::kind::{self, Kind};
use super::{Sample, name, names};
use crate::error::{Error, Result};

/// The files of one folder by what an image and its caption share.
#[derive(Default)]
pub(super) struct Pairs {
    pub images: BTreeMap<PathBuf, PathBuf>,
    pub captions: BTreeMap<PathBuf, PathBuf>,
    pub unread: Vec<PathBuf>,
}

impl Pairs {
    pub fn add(&mut self, path: &Path, extension: Option<&str>) -> Result<()> {
        let stem = names::stem(path);
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
        let caption =
            extension.map_or(kind::of(path) == Kind::Caption, |wanted| wanted.trim_start_matches('.') == ending);
        if caption {
            if let Some(other) = self.captions.insert(stem, path.into()) {
                let message =
                    format!("is a caption beside {}; keep one of them, or say by --caption-extension", name(&other));
                return Err(Error::file(path, message));
            }
            return Ok(());
        }
        match kind::of(path) {
            Kind::Image => {
                if let Some(other) = self.images.insert(stem, path.into()) {
                    let message = format!("shares its caption with {}; rename one of them", name(&other));
                    return Err(Error::file(path, message));
                }
            }
            Kind::UnreadImage => self.unread.push(path.into()),
            Kind::Caption | Kind::Other => {}
        }
        Ok(())
    }

    /// The samples, and how many of them have the caption `fallback`.
    pub fn samples(&self, fallback: Option<&str>, subset: usize) -> Result<(Vec<Sample>, usize)> {
        let mut without = 0;
        let unread: BTreeSet<PathBuf> = self.unread.iter().map(|path| names::stem(path)).collect();
        let alone = |stem: &PathBuf| !self.images.contains_key(stem) && !unread.contains(stem);
        if let Some((_, caption)) = self.captions.iter().find(|(stem, _)| alone(stem)) {
            return Err(Error::file(caption, "a caption without an image beside it"));
        }
        let mut samples = Vec::new();
        for (stem, image) in &self.images {
            let caption = match (self.captions.get(stem), fallback) {
                (Some(caption), _) => read_caption(caption)?,
                (None, Some(fallback)) => {
                    without += 1;
                    fallback.to_owned()
                }
                (None, None) => {
                    let message = format!("an image without a caption; write one to {}.txt", name(stem));
                    return Err(Error::file(image, message));
                }
            };
            samples.push(Sample { image: image.clone(), captions: vec![caption], subset });
        }
        Ok((samples, without))
    }
}

fn read_caption(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.trim().to_string()),
        Err(e) => {
            let message = format!("not UTF-8 at byte {}; convert the caption to UTF-8", e.valid_up_to());
            Err(Error::file(path, message))
        }
    }
}
