//! Models of the Hugging Face hub by their id (`org/name`), in the cache that its own programs share: what diffusers has
//! downloaded is used as it lies, and what selma downloads diffusers finds.
//!
//! Layout: `models--ORG--NAME/{refs/main, blobs/HASH, snapshots/COMMIT/...}`; a snapshot's files are links to blobs.

mod cache;
mod download;
mod files;
mod judge;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use cache::Cache;
use download::Remote;
pub use judge::JudgeId;

/// How far a download is: the file, and bytes of all files together.
pub struct Progress<'a> {
    pub file: &'a str,
    pub done: u64,
    pub total: u64,
}

/// Where models come from.
pub struct Hub {
    /// `https://huggingface.co`, or a mirror.
    pub endpoint: String,
    /// The folder with `models--...` in it.
    pub cache: PathBuf,
    /// Sent to the endpoint, and to nobody it redirects to.
    pub token: Option<String>,
    /// Whether the network may not be used.
    pub offline: bool,
}

impl Hub {
    /// As huggingface_hub reads the environment: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN` (or the file
    /// `token`), `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`Error::Failed`] where there is no home folder to hold the cache.
    pub fn from_environment(offline: bool) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = match (variable("HF_HOME"), variable("XDG_CACHE_HOME"), variable("HOME")) {
            (Some(home), ..) => Some(PathBuf::from(home)),
            (None, Some(caches), _) => Some(Path::new(&caches).join("huggingface")),
            (None, None, Some(home)) => Some(Path::new(&home).join(".cache/huggingface")),
            (None, None, None) => None,
        };
        let cache = variable("HF_HUB_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub")));
        let cache = cache.ok_or_else(|| Error::Failed("no folder for models: set HF_HOME".into()))?;
        let file = home.and_then(|home| std::fs::read_to_string(home.join("token")).ok());
        let token = variable("HF_TOKEN").or(file).map(|token| token.trim().to_string());
        let forbidden = variable("HF_HUB_OFFLINE");
        let forbidden = forbidden.is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str()));
        Ok(Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            cache,
            token: token.filter(|token| !token.is_empty()),
            offline: offline || forbidden,
        })
    }

    /// The folder of a model in diffusers' layout, `ORG/NAME`, with `@REVISION` of a branch, tag or commit, and with `:VARIANT` of the
    /// weights, such as `fp16`. One that is whole in the cache is used without asking the network; else
    /// what selma reads of it is downloaded, going on where an earlier download was broken off.
    ///
    /// # Errors
    /// [`Error::Failed`] for a model that is neither here nor to be had, with the endpoint's reason; [`Error::Io`].
    pub fn snapshot(&self, model: &str, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let main = JudgeId { id: model, revision: "main", file: None };
        let JudgeId { id, revision, file: variant } = JudgeId::parse(model).unwrap_or(main);
        let cache = Cache::new(&self.cache, id);
        let there = match variant {
            None => cache.snapshot_of(revision),
            Some(variant) => cache.variant_of(revision, variant),
        };
        if let Some(folder) = there.filter(|folder| files::is_whole(folder)) {
            return Ok(folder);
        }
        if self.offline {
            return Err(Error::Failed(format!(
                "{id}: no whole model of this name in {}, and the network is not to be used (--offline); give a folder, or \
                 run once without --offline",
                self.cache.display()
            )));
        }
        let remote = Remote::new(&self.endpoint, self.token.as_deref(), id);
        let listing = remote.listing(revision)?;
        let index = listing.find("model_index.json").ok_or_else(|| {
            Error::Failed(format!("{id}: no model_index.json there: not a model of diffusers' layout"))
        })?;
        let index = remote.fetch(&listing, index, &cache, &mut |_| {})?;
        let wanted = files::wanted(id, &index, variant, &listing)?;
        let total = wanted.iter().map(|file| file.size).sum();
        let mut before = 0;
        for file in wanted {
            let name = &file.name;
            let done = |bytes| progress(Progress { file: name, done: before + bytes, total });
            remote.fetch(&listing, file, &cache, &mut { done })?;
            if let Some(variant) = variant {
                cache.link_variant(&listing.commit, variant, &file.name, &file.hash)?;
            }
            before += file.size;
        }
        let whole = cache.publish(revision, &listing.commit)?;
        match variant {
            None => Ok(whole),
            Some(variant) => {
                let index = listing.find("model_index.json").map_or("", |file| file.hash.as_str());
                let index = cache.link_variant(&listing.commit, variant, "model_index.json", index)?;
                Ok(crate::formats::atomic::folder(&index).into())
            }
        }
    }
}

/// Whether `text` can name a model: [`is_id`], with a revision and a variant where they are given.
pub fn names_model(text: &str) -> bool {
    JudgeId::parse(text).is_some_and(|id| id.file.is_none_or(|variant| !variant.contains(['/', '.'])))
}

/// Whether `text` can be the id of a model: `org/name`, and nothing on disk.
pub fn is_id(text: &str) -> bool {
    let part = |part: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains("..") && part.chars().all(legal)
    };
    let parts: Vec<_> = text.split('/').collect();
    parts.len() == 2 && parts.into_iter().all(part) && !Path::new(text).exists()
}
