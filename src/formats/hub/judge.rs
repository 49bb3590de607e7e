//! Judges and LoRAs on the hub: a repository of one network, of which its configuration, its vocabulary and one set of weights are
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

/// What is read of a repository of one network.
struct Wanted {
    others: &'static [&'static str],
    weights: &'static [&'static str],
    /// Whether weights of another name do, where the repository has no others.
    any_name: bool,
}

const OF_JUDGE: Wanted = Wanted { others: &OTHERS, weights: &WEIGHTS, any_name: false };
const OF_LORA: Wanted = Wanted {
    others: &["adapter_config.json"],
    weights: &["pytorch_lora_weights.safetensors", "adapter_model.safetensors"],
    any_name: true,
};

impl Hub {
    /// Where a LoRA lies: the file that was named, or the only one there. What is in the cache is used without asking the network.
    ///
    /// # Errors
    /// As [`Hub::judge`].
    pub fn lora(&self, lora: JudgeId<'_>, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let folder = self.network(lora, &OF_LORA, progress)?;
        if lora.file.is_some() {
            return Ok(folder);
        }
        let known = OF_LORA.weights.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let alone = || only_weights(&folder).map(|name| folder.join(name));
        known.or_else(alone).ok_or_else(|| Error::Failed(format!("{}: name the LoRA as {}:FILE", lora.id, lora.id)))
    }

    /// Where a judge's files lie: the file of weights that was named, or the folder with all of them. What is in the cache
    /// is used without asking the network.
    ///
    /// # Errors
    /// [`Error::Failed`] for a judge that is neither here nor to be had, with the endpoint's reason; [`Error::Io`].
    pub fn judge(&self, judge: JudgeId<'_>, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        self.network(judge, &OF_JUDGE, progress)
    }

    fn network(&self, judge: JudgeId<'_>, what: &Wanted, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let JudgeId { id, revision, file } = judge;
        let cache = Cache::new(&self.cache, id);
        let place = |folder: PathBuf| file.map_or(folder.clone(), |file| folder.join(file));
        let is_there = |folder: &Path| match file {
            Some(file) => folder.join(file).is_file(),
            None => {
                let known = what.weights.iter().any(|name| folder.join(name).is_file());
                known || (what.any_name && only_weights(folder).is_some())
            }
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
        let weights = weights(id, file, what, &listing)?;
        let wanted: Vec<&RemoteFile> =
            what.others.iter().filter_map(|name| listing.find(name)).chain([weights]).collect();
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

/// The only file of weights in a folder.
fn only_weights(folder: &Path) -> Option<String> {
    let names = std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let names: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    <[String; 1]>::try_from(names).ok().map(|[name]| name)
}

fn weights<'a>(id: &str, file: Option<&str>, what: &Wanted, listing: &'a Listing) -> Result<&'a RemoteFile> {
    let alone = || {
        let mut all = listing.files.iter().filter(|file| file.name.ends_with(".safetensors"));
        all.next().filter(|first| what.any_name && all.next().is_none() && !first.name.contains('/'))
    };
    let found = match file {
        Some(file) => listing.find(file),
        None => what.weights.iter().find_map(|name| listing.find(name)).or_else(alone),
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
