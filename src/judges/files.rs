//! The files of a judge: what the user named, the weights in it, its configuration.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::word_piece::WordPiece;
use crate::error::{Error, Result};
use crate::formats::checkpoint::Source;
use crate::formats::component::{self, Component};
use crate::formats::digest;
use crate::formats::tensor_file::TensorFile;
use crate::nn::Weights;
use crate::tensor::DType;

/// A judge on disk.
pub struct Files {
    /// Where the configuration and the vocabulary are.
    pub folder: PathBuf,
    /// One file, or shards.
    pub weights: Vec<PathBuf>,
}

/// Weight files that are looked for first, in this order.
const KNOWN: [&str; 4] =
    ["model.safetensors", "open_clip_model.safetensors", "ImageReward.safetensors", "model.fp16.safetensors"];
const ENDINGS: [&[&str]; 2] = [&["safetensors"], &["bin", "pt", "pth"]];

impl Files {
    /// A file of weights, or a folder with one; safetensors before pickles.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] for a folder with no weights, or with several files that may be meant.
    pub fn find(place: &Path) -> Result<Self> {
        if !place.is_dir() {
            let folder = place.parent().unwrap_or(Path::new("")).to_path_buf();
            if !place.exists() {
                return Err(Error::file(place, "no such file or folder; expected a judge's weights"));
            }
            return Ok(Self { folder, weights: vec![place.into()] });
        }
        let found = |weights| Ok(Self { folder: place.into(), weights });
        if let Some(file) = KNOWN.iter().map(|name| place.join(name)).find(|path| path.is_file()) {
            return found(vec![file]);
        }
        if place.join("model.safetensors.index.json").is_file() {
            return found(component::weight_files(place)?);
        }
        let entries = std::fs::read_dir(place).map_err(|e| Error::io(place, e))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        for endings in ENDINGS {
            let ends = |path: &&PathBuf| path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending));
            let fitting: Vec<&PathBuf> = files.iter().filter(ends).collect();
            match fitting[..] {
                [] => {}
                [one] => return found(vec![one.clone()]),
                [first, second, ..] => {
                    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let message = format!(
                        "holds {} files of weights, such as {} and {}; name the one that is meant",
                        fitting.len(),
                        name(first),
                        name(second)
                    );
                    return Err(Error::file(place, message));
                }
            }
        }
        Err(Error::file(place, "no weights here: expected a .safetensors file, or one of PyTorch's .bin, .pt or .pth"))
    }

    /// The tensors under the names that `names` gives them.
    ///
    /// # Errors
    /// As [`TensorFile::open`] and [`Component::renamed`].
    pub fn open(&self, names: impl Fn(&str) -> Vec<(String, Source)>, dtype: DType) -> Result<Weights> {
        let files = self.weights.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>>>()?;
        Ok(Weights::of(Component::renamed(&self.weights[0], files, names)?, dtype))
    }

    /// SHA-256 of the weights.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hash(&self) -> Result<String> {
        match &self.weights[..] {
            [one] => digest::file(one),
            several => digest::files(several),
        }
    }

    /// A JSON file beside the weights; none where there is no such file.
    ///
    /// # Errors
    /// [`Error::File`] where it is no JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        let path = self.folder.join(name);
        path.is_file().then(|| component::json(&path)).transpose()
    }

    /// By `vocab.txt` beside the weights; where there is none, that of bert-base-uncased, which all published ones use.
    ///
    /// # Errors
    /// As [`WordPiece::load`].
    pub fn word_pieces(&self) -> Result<WordPiece> {
        let path = self.folder.join("vocab.txt");
        if path.is_file() { WordPiece::load(&path) } else { WordPiece::bert() }
    }

    /// A whole number of a configuration.
    pub(super) fn size(&self, file: &str, config: &Value, keys: &[&str]) -> Result<usize> {
        let value = keys.iter().fold(config, |value, key| &value[*key]);
        let size =
            value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0 && size < 1 << 24);
        let message = || format!("`{}` is {value}: expected a positive integer", keys.join("."));
        size.ok_or_else(|| Error::file(self.folder.join(file), message()))
    }
}
