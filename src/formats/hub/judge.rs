//! Judges on the hub: a repository of one network, of which its configuration, its vocabulary and one set of weights are
//! read.

use std::path::{Path, PathBuf};

use super::cache::Cache;
use super::download::{Listing, Remote, RemoteFile};
use super::{Hub, Progress, is_id};
use crate::error::{Error, Result};

const MAIN: &str = "main";
/// What is read beside the weights.
const OTHERS: [&str; 6] = [
    "config.json",
    "open_clip_config.json",
    "med_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.txt",
];
/// Names of weights, the first that is there.
const WEIGHTS: [&str; 6] = [
    "model.safetensors",
    "open_clip_model.safetensors",
    "ImageReward.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "ImageReward.pt",
];

/// `ORG/NAME`, `ORG/NAME@REVISION`, and with `:FILE` the file of weights that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgeId<'a> {
    pub id: &'a str,
    pub revision: &'a str,
    pub file: Option<&'a str>,
}

impl<'a> JudgeId<'a> {
    /// None for what is no id, or is on disk.
    pub fn parse(text: &'a str) -> Option<Self> {
        if Path::new(text).exists() {
            return None;
        }
        let (rest, file) = text.split_once(':').map_or((text, None), |(rest, file)| (rest, Some(file)));
        let (id, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let named = |name: &str| !name.is_empty() && !name.contains("..") && name.chars().all(|c| legal(c) || c == '+');
        (is_id(id) && named(revision) && file.is_none_or(named)).then_some(Self { id, revision, file })
    }
}

impl Hub {
    /// Where a judge's files lie: the file of weights that was named, or the folder with all of them. What is in the cache
    /// is used without asking the network.
    ///
    /// # Errors
    /// [`Error::Failed`] for a judge that is neither here nor to be had, with the endpoint's reason; [`Error::Io`].
    pub fn judge(&self, judge: JudgeId<'_>, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let JudgeId { id, revision, file } = judge;
        let cache = Cache::new(&self.cache, id);
        let place = |folder: PathBuf| file.map_or(folder.clone(), |file| folder.join(file));
        let is_there = |folder: &Path| match file {
            Some(file) => folder.join(file).is_file(),
            None => WEIGHTS.iter().any(|name| folder.join(name).is_file()),
        };
        if let Some(folder) = cache.snapshot_of(revision).filter(|folder| is_there(folder)) {
            return Ok(place(folder));
        }
        if self.offline {
            return Err(Error::Failed(format!(
                "{id}: not in {}, and the network is not to be used (--offline); give a folder or file, or run once without \
                 --offline",
                self.cache.display()
            )));
        }
        let remote = Remote::new(&self.endpoint, self.token.as_deref(), id);
        let listing = remote.listing(revision)?;
        let weights = weights(id, file, &listing)?;
        let wanted: Vec<&RemoteFile> = OTHERS.iter().filter_map(|name| listing.find(name)).chain([weights]).collect();
        let total = wanted.iter().map(|file| file.size).sum();
        let mut before = 0;
        for file in wanted {
            let name = &file.name;
            let done = |bytes| progress(Progress { file: name, done: before + bytes, total });
            remote.fetch(&listing, file, &cache, &mut { done })?;
            before += file.size;
        }
        Ok(place(cache.publish(revision, &listing.commit)?))
    }
}

fn weights<'a>(id: &str, file: Option<&str>, listing: &'a Listing) -> Result<&'a RemoteFile> {
    let found = match file {
        Some(file) => listing.find(file),
        None => WEIGHTS.iter().find_map(|name| listing.find(name)),
    };
    found.ok_or_else(|| {
        let ends = |name: &str| [".safetensors", ".bin", ".pt", ".pth"].iter().any(|ending| name.ends_with(ending));
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).filter(|name| ends(name)).collect();
        Error::Failed(match (file, &names[..]) {
            (Some(file), _) => format!("{id}: there is no file {file}; weights there: {}", names.join(", ")),
            (None, []) => format!("{id}: there are no weights there"),
            (None, _) => format!("{id}: name the file of weights as {id}:FILE, one of {}", names.join(", ")),
        })
    })
}
