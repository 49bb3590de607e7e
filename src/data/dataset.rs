//! A training folder: pictures with `metadata.jsonl` (`file_name`, `text`, as in Hugging Face's imagefolder) or with a
//! `.txt` caption beside each. Everything is checked before training starts.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::formats::jsonl;

/// The endings that count as pictures, in lower case.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// One picture and what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub image: PathBuf,
    pub caption: String,
}

/// The samples of a folder, in the order of `metadata.jsonl`, or sorted by name.
#[derive(Debug, Clone)]
pub struct Dataset {
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Row {
    file_name: String,
    text: String,
}

impl Dataset {
    /// Lists a folder. Pictures that `metadata.jsonl` does not name are left out; without that file every picture needs
    /// a caption and every caption a picture.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] naming the line or file that is wrong: a bad record, a name that leaves the
    /// folder, a picture or caption that is missing, an empty or non-UTF-8 caption file, no picture at all.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            let why = if dir.exists() { "is a file" } else { "does not exist" };
            let message = format!("{why}; expected a folder of pictures with their captions");
            return Err(Error::file(dir, message));
        }
        let metadata = dir.join("metadata.jsonl");
        let samples = if metadata.is_file() { from_metadata(dir, &metadata)? } else { from_captions(dir)? };
        if samples.is_empty() {
            let message = "no pictures with captions; expected metadata.jsonl with `file_name` and `text`, or pictures \
                           (png, jpg, webp, bmp) with .txt captions beside them";
            return Err(Error::file(dir, message));
        }
        Ok(Self { samples })
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Never true of an opened folder.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

fn from_metadata(dir: &Path, metadata: &Path) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for (line, row) in jsonl::read::<Row>(metadata)? {
        let refuse = |why: &str| Error::file(metadata, format!("line {line}: file_name `{}` {why}", row.file_name));
        let image = within(dir, &row.file_name).map_err(refuse)?;
        let image = image.ok_or_else(|| refuse("does not exist"))?;
        let caption = row.text.trim().to_string();
        samples.push(Sample { image, caption });
    }
    Ok(samples)
}

/// The path of a file that a record of `dir` names; `None` if it does not exist. The record may come from anyone: nothing
/// outside the folder is read.
///
/// # Errors
/// What is wrong with the name.
pub(crate) fn within(dir: &Path, name: &str) -> Result<Option<PathBuf>, &'static str> {
    let inside = |c| matches!(c, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || !Path::new(name).components().all(inside) {
        return Err("leaves the folder; names must be relative and without `..`");
    }
    let path = dir.join(name);
    let (Ok(real), Ok(root)) = (path.canonicalize(), dir.canonicalize()) else {
        return Ok(None);
    };
    if !real.starts_with(root) {
        return Err("is a link that leaves the folder");
    }
    if !real.is_file() {
        return Err("is not a file");
    }
    Ok(Some(path))
}

fn from_captions(dir: &Path) -> Result<Vec<Sample>> {
    let mut images: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut captions: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        let Some(ending) = ending.filter(|_| !hidden && path.is_file()) else {
            continue;
        };
        let stem = path.with_extension("");
        if ending == "txt" {
            captions.insert(stem, path);
        } else if ENDINGS.contains(&ending.as_str())
            && let Some(other) = images.insert(stem, path.clone())
        {
            let message = format!("shares its caption with {}; rename one of them", name(&other));
            return Err(Error::file(path, message));
        }
    }
    if images.is_empty() && captions.is_empty() {
        return Ok(Vec::new());
    }
    if let Some((_, caption)) = captions.iter().find(|(stem, _)| !images.contains_key(*stem)) {
        return Err(Error::file(caption, "a caption without a picture beside it"));
    }
    let sample = |(stem, image): (PathBuf, PathBuf)| match captions.get(&stem) {
        Some(caption) => Ok(Sample { image, caption: read_caption(caption)? }),
        None => {
            let message = format!("a picture without a caption; write one to {}.txt", name(&stem));
            Err(Error::file(image, message))
        }
    };
    images.into_iter().map(sample).collect()
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

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
