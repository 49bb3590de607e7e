//! A training dataset: a folder of captioned images as they are found out there, or a TOML file in the form of kohya's
//! scripts that names several. Everything is checked before training starts.
//!
//! A folder has `metadata.jsonl` or `metadata.csv` (`file_name`, `text`, as in Hugging Face's imagefolder), or a caption
//! file beside each image; folders inside of it are read too. Images in a folder `10_name` count ten times, and where one of
//! them has no caption it is `name`, as kohya's scripts have it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::data::rng::{Purpose, Rng};
use crate::error::{Error, Result};
use pairs::Pairs;

mod kind;
mod kohya;
mod metadata;
mod names;
mod pairs;
mod subset;

pub use kohya::Asked;
pub(crate) use names::within;
pub use subset::{Subset, Variation};

/// Files that are named; of more, only their number.
const NAMED: usize = 3;

/// One image and what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub image: PathBuf,
    /// At least one; of several, each visit draws one.
    pub captions: Vec<String>,
    /// Index into [`Dataset::subsets`].
    pub subset: usize,
}

impl Sample {
    /// The image's file name.
    pub fn name(&self) -> String {
        self.image.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// How a folder is read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The column of captions in metadata files; where left out, `text`, `caption` or `prompt`.
    pub caption_column: Option<String>,
    /// The ending of caption files; where left out, `.txt` and `.caption`.
    pub caption_extension: Option<String>,
    /// What holds where nothing else is said.
    pub subset: Subset,
}

/// The samples of a dataset, in the order of its metadata file, or sorted by name.
#[derive(Debug, Clone)]
pub struct Dataset {
    samples: Vec<Sample>,
    subsets: Vec<Subset>,
    /// What to say of it.
    pub notes: Vec<String>,
    /// What a TOML file asks of the run.
    pub asked: Asked,
}

impl Dataset {
    /// Reads a folder or TOML file as it is.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, &Reading::default())
    }

    /// Lists a folder, or the folders that a TOML file names. Images that a metadata file does not name are left out;
    /// without such a file every image needs a caption and every caption an image.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] naming the line or file that is wrong: a bad record, a name that leaves the
    /// folder, an image or caption that is missing, a non-UTF-8 caption file, no image at all; [`Error::Usage`] for a key
    /// of a TOML file that does not exist.
    pub fn read(path: &Path, reading: &Reading) -> Result<Self> {
        let mut dataset = Self { samples: Vec::new(), subsets: Vec::new(), notes: Vec::new(), asked: Asked::default() };
        if path.extension().is_some_and(|ending| ending == "toml") && path.is_file() {
            kohya::read(path, reading, &mut dataset)?;
        } else {
            dataset.add(path, reading)?;
        }
        if dataset.samples.iter().all(|sample| dataset.subsets[sample.subset].is_reg) && !dataset.samples.is_empty() {
            return Err(Error::file(path, "has regularisation images alone; name images to train on too"));
        }
        Ok(dataset)
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Never true of an opened dataset.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    pub fn subsets(&self) -> &[Subset] {
        &self.subsets
    }

    /// Whether a caption has more forms than itself and the empty one.
    pub fn captions_vary(&self) -> bool {
        self.subsets.iter().any(|subset| subset.variation.has_many_forms())
    }

    /// Adds regularisation images: a folder of images of the class.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn add_regularisation(&mut self, dir: &Path, reading: &Reading) -> Result<()> {
        let subset = Subset { is_reg: true, repeats: 1, ..reading.subset.clone() };
        self.add(dir, &Reading { subset, ..reading.clone() })
    }

    /// Takes a share of the images out, at least one, which the seed alone decides; regularisation images stay.
    ///
    /// # Errors
    /// [`Error::Usage`] where nothing would be left to train on.
    pub fn hold_out(&mut self, share: f64, seed: u64) -> Result<Self> {
        let mut ranked: Vec<(u64, usize)> = (0..self.len())
            .filter(|&i| !self.subset(&self.samples[i]).is_reg)
            .map(|i| (Rng::new(seed, Purpose::HeldOut, i as u64, 0).next(), i))
            .collect();
        ranked.sort_unstable();
        let count = ((ranked.len() as f64 * share).round() as usize).max(1);
        if count >= ranked.len() {
            let message =
                format!("validation-split {share} of {} leaves none to train on", self::count(ranked.len(), "image"));
            return Err(Error::Usage(message));
        }
        let held: BTreeSet<usize> = ranked[..count].iter().map(|&(_, i)| i).collect();
        let mut other = Self { samples: Vec::new(), notes: Vec::new(), ..self.clone() };
        for (i, sample) in std::mem::take(&mut self.samples).into_iter().enumerate() {
            if held.contains(&i) { other.samples.push(sample) } else { self.samples.push(sample) }
        }
        Ok(other)
    }

    /// The same with each image once, and captions as they are written.
    pub fn plain(mut self) -> Self {
        for subset in &mut self.subsets {
            subset.repeats = 1;
            let Variation { prefix, suffix, .. } = subset.variation.clone();
            subset.variation = Variation { prefix, suffix, ..Variation::default() };
        }
        self.samples.iter_mut().for_each(|sample| sample.captions.truncate(1));
        self
    }

    /// The settings that hold for a sample.
    pub fn subset(&self, sample: &Sample) -> &Subset {
        &self.subsets[sample.subset]
    }

    /// Adds the samples of a folder.
    fn add(&mut self, dir: &Path, reading: &Reading) -> Result<()> {
        if !dir.is_dir() {
            let why = if dir.exists() { "is a file" } else { "does not exist" };
            let message = format!("{why}; expected a folder of images with their captions");
            return Err(Error::file(dir, message));
        }
        let before = self.len();
        let mut unread = Vec::new();
        let subset = self.define(reading.subset.clone());
        self.folder(dir, reading, subset, &mut BTreeSet::new(), &mut unread)?;
        if !unread.is_empty() {
            self.notes.push(format!(
                "warning: {} in {} are of formats that are not read: {}; convert them to PNG, JPEG or WebP",
                count(unread.len(), "image"),
                dir.display(),
                named(&unread)
            ));
        }
        if self.len() == before {
            let mut message =
                "no images with captions; expected metadata.jsonl with `file_name` and `text`, or images \
                               (png, jpg, webp, bmp) with .txt captions beside them"
                    .to_owned();
            if let Some(file) = packed(dir) {
                message += &format!("; {} is not read: unpack its images", name(&file));
            }
            return Err(Error::file(dir, message));
        }
        Ok(())
    }

    fn define(&mut self, subset: Subset) -> usize {
        let known = self.subsets.iter().position(|known| *known == subset);
        known.unwrap_or_else(|| {
            self.subsets.push(subset);
            self.subsets.len() - 1
        })
    }

    /// Adds a folder and those inside of it, each once.
    fn folder(
        &mut self,
        dir: &Path,
        reading: &Reading,
        subset: usize,
        seen: &mut BTreeSet<PathBuf>,
        unread: &mut Vec<PathBuf>,
    ) -> Result<()> {
        if !seen.insert(dir.canonicalize().map_err(|e| Error::io(dir, e))?) {
            return Ok(());
        }
        if let Some(file) = metadata::find(dir)? {
            let (samples, notes) = metadata::read(&file, reading.caption_column.as_deref(), subset)?;
            self.samples.extend(samples);
            self.notes.extend(notes);
            return Ok(());
        }
        let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        let mut paths = entries.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>();
        let paths = paths.as_mut().map_err(|e| Error::file(dir, e.to_string()))?;
        paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
        paths.sort();
        let mut pairs = Pairs::default();
        for path in paths.iter().filter(|path| path.is_file()) {
            pairs.add(path, reading.caption_extension.as_deref())?;
        }
        let fallback = self.subsets[subset].class_tokens.clone();
        let (samples, without) = pairs.samples(fallback.as_deref(), subset)?;
        if let Some(tokens) = fallback.filter(|_| without > 0) {
            self.notes.push(format!(
                "{} in {} {}: it is `{tokens}`",
                count(without, "image"),
                dir.display(),
                if without == 1 { "has no caption of its own" } else { "have no captions of their own" }
            ));
        }
        unread.extend(pairs.unread);
        self.samples.extend(samples);
        for path in paths.iter().filter(|path| path.is_dir()) {
            let subset = match repeats(path) {
                None => subset,
                Some((repeats, name)) => {
                    let outer = &self.subsets[subset];
                    let class_tokens = outer.class_tokens.clone().or(Some(name));
                    let inner = Subset { repeats: outer.repeats * repeats, class_tokens, ..outer.clone() };
                    self.notes.push(format!("each image in {} counts {} times", path.display(), inner.repeats));
                    self.define(inner)
                }
            };
            self.folder(path, reading, subset, seen, unread)?;
        }
        Ok(())
    }
}

/// `10_name` as 10 and name.
fn repeats(dir: &Path) -> Option<(u32, String)> {
    let name = dir.file_name()?.to_str()?;
    let (number, name) = name.split_once('_')?;
    let number = number.parse().ok().filter(|&number| number > 0)?;
    Some((number, name.trim().to_owned()))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// "3 images".
pub(super) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// The first file in a folder, or in one inside of it, that may have images in it.
fn packed(dir: &Path) -> Option<PathBuf> {
    const ENDINGS: [&str; 6] = ["parquet", "arrow", "tar", "zip", "7z", "rar"];
    let entries = |dir: &Path| -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        paths.sort();
        paths
    };
    let inside = entries(dir).into_iter().flat_map(|path| if path.is_dir() { entries(&path) } else { vec![path] });
    let is_packed = |path: &PathBuf| {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
    };
    inside.into_iter().find(is_packed)
}

/// The first few names, and how many more there are.
pub(super) fn named(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().take(NAMED).map(|path| name(path)).collect();
    match paths.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}
