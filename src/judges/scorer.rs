//! Judges that give an image one number: loading one, and its scores.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::aesthetic::Aesthetic;
use super::cache::ValueCache;
use super::clip::{self, Clip, cosine, stacked};
use super::extract::{Extraction, hashes};
use super::image_reward::Reward;
use super::kind::Kind;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// Images and texts that a network is given at a time.
const BATCH: usize = 8;

enum Network {
    Clip(Box<Clip>),
    Aesthetic(Box<Aesthetic>),
    Reward(Box<Reward>),
}

/// Where a scorer's weights are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub weights: PathBuf,
    /// Of the CLIP that a file with the aesthetic head alone needs.
    pub clip: Option<PathBuf>,
}

pub struct Scorer {
    pub kind: Kind,
    network: Network,
    size: usize,
    /// Of all weights.
    hash: String,
    dtype: DType,
    alpha: AtomicBool,
}

/// An image and what it was drawn from.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    pub path: &'a Path,
    pub prompt: &'a str,
}

impl Scorer {
    /// On `device`, with matrices in `dtype`.
    ///
    /// # Errors
    /// [`Error::File`] naming what is missing or does not fit; what the device says.
    pub fn load(kind: Kind, place: &Place, device: &Device, dtype: DType) -> Result<Self> {
        let path = &place.weights;
        let (network, size, hash) = match kind {
            Kind::ImageReward => {
                let reward = Reward::load(path, device, dtype)?;
                let (size, hash) = (reward.model.vision.image_size(), reward.hash.clone());
                (Network::Reward(Box::new(reward)), size, hash)
            }
            Kind::Aesthetic => {
                let judge = Aesthetic::load(path, place.clip.as_deref(), device, dtype)?;
                let (size, hash) = (judge.image_size(), judge.hashes.join("+"));
                (Network::Aesthetic(Box::new(judge)), size, hash)
            }
            _ => {
                let clip = Clip::load(path, device, dtype)?;
                if clip.model.text().is_none() {
                    let message = format!("has no text encoder, which {} needs", kind.name());
                    return Err(Error::file(path, message));
                }
                let (size, hash) = (clip.model.image_size(), clip.hash.clone());
                (Network::Clip(Box::new(clip)), size, hash)
            }
        };
        Ok(Self { kind, network, size, hash, dtype, alpha: AtomicBool::new(false) })
    }

    /// What scores depend on besides images and prompts: they compare only where it is the same.
    pub fn describe(&self) -> String {
        let short: Vec<&str> = self.hash.split('+').map(|hash| &hash[..hash.len().min(16)]).collect();
        let (recipe, size) = (self.kind.recipe().name(), self.size);
        let (formula, dtype) = (self.kind.formula(), self.dtype.name());
        format!("{formula}; weights {}, recipe {recipe} {size}, {dtype}", short.join(" and "))
    }

    /// The score of each; what was computed is kept in `cache` a batch at a time. `progress` is told how many images are
    /// done.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`] for an image that cannot be read; what the device says; what `progress` returns.
    pub fn scores(
        &self,
        subjects: &[Subject<'_>],
        cache: &ValueCache,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let digests = hashes(&subjects.iter().map(|subject| subject.path).collect::<Vec<_>>())?;
        match &self.network {
            Network::Clip(clip) => {
                let images = self.image_embeds(subjects, &digests, cache, progress, &|x| clip.image_embeds(x))?;
                let texts = self.text_embeds(clip, subjects, cache)?;
                let score = |cos: f64| match self.kind {
                    Kind::ClipScore => clip::clip_score(cos),
                    Kind::PickScore => clip.model.logit_scale * cos,
                    _ => clip::hps(cos),
                };
                Ok(images.iter().zip(&texts).map(|(image, text)| score(cosine(image, text))).collect())
            }
            Network::Aesthetic(judge) => {
                let images = self.image_embeds(subjects, &digests, cache, progress, &|x| judge.image_embeds(x))?;
                judge.scores(&images)
            }
            Network::Reward(reward) => self.rewards(reward, subjects, &digests, cache, progress),
        }
    }

    /// How many of the prompts are longer than the network reads, each counted once.
    ///
    /// # Errors
    /// As the tokenizer's.
    pub fn cut_prompts<'a>(&self, prompts: impl Iterator<Item = &'a str>) -> Result<usize> {
        let prompts: BTreeSet<&str> = prompts.collect();
        match &self.network {
            Network::Aesthetic(_) => Ok(0),
            Network::Clip(clip) => {
                let texts: Vec<String> = prompts.iter().map(|prompt| format!("{}{prompt}", self.prefix())).collect();
                clip.ids(&texts).map(|(_, cut)| cut)
            }
            Network::Reward(reward) => {
                let dropped = prompts.iter().map(|prompt| reward.ids(prompt).map(|(_, dropped)| dropped));
                Ok(dropped.collect::<Result<Vec<_>>>()?.into_iter().filter(|&dropped| dropped > 0).count())
            }
        }
    }

    /// Tensors of the files that the judge does not use.
    pub fn unread(&self) -> Vec<&str> {
        let unread = match &self.network {
            Network::Clip(clip) => &clip.model.unread,
            Network::Aesthetic(judge) => judge.unread(),
            Network::Reward(reward) => &reward.model.unread,
        };
        unread.iter().map(String::as_str).filter(|name| !name.ends_with("position_ids")).collect()
    }

    /// Whether an image that was looked at had an alpha channel.
    pub fn saw_alpha(&self) -> bool {
        self.alpha.load(Ordering::Relaxed)
    }

    fn prefix(&self) -> &'static str {
        if self.kind == Kind::ClipScore { clip::PREFIX } else { "" }
    }

    fn extraction<'a>(&'a self, cache: &'a ValueCache) -> Extraction<'a> {
        let Self { kind, size, hash, dtype, alpha, .. } = self;
        Extraction { recipe: kind.recipe(), size: *size, hash, dtype: *dtype, batch: BATCH, cache, alpha }
    }

    fn image_embeds(
        &self,
        subjects: &[Subject<'_>],
        hashes: &[String],
        cache: &ValueCache,
        progress: &mut dyn FnMut(usize) -> Result<()>,
        network: &dyn Fn(&Tensor) -> Result<Vec<Vec<f64>>>,
    ) -> Result<Vec<Vec<f64>>> {
        let paths: Vec<&Path> = subjects.iter().map(|subject| subject.path).collect();
        self.extraction(cache).rows("image", &paths, hashes, progress, network)
    }

    /// Of each subject's prompt.
    fn text_embeds(&self, clip: &Clip, subjects: &[Subject<'_>], cache: &ValueCache) -> Result<Vec<Vec<f64>>> {
        let extraction = self.extraction(cache);
        let key = |text: &String| extraction.key("text", text);
        let texts: Vec<String> =
            subjects.iter().map(|subject| format!("{}{}", self.prefix(), subject.prompt)).collect();
        let mut missing: Vec<&String> = texts.iter().filter(|text| cache.get(&key(text)).is_none()).collect();
        missing.sort();
        missing.dedup();
        for batch in missing.chunks(BATCH) {
            let embeds = clip.text_embeds(batch)?;
            let batch: Vec<_> = batch.iter().map(|text| key(text)).zip(embeds).collect();
            cache.put(&batch)?;
        }
        Ok(texts.iter().filter_map(|text| cache.get(&key(text))).collect())
    }

    /// An image's states are as large as the image, so that what is kept is the reward; each image is looked at once
    /// for all its prompts.
    fn rewards(
        &self,
        reward: &Reward,
        subjects: &[Subject<'_>],
        hashes: &[String],
        cache: &ValueCache,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let extraction = self.extraction(cache);
        let key = |i: usize| extraction.key(&format!("reward {}", hashes[i]), subjects[i].prompt);
        let mut by_image: HashMap<&str, Vec<usize>> = HashMap::new();
        for i in (0..subjects.len()).filter(|&i| cache.get(&key(i)).is_none()) {
            by_image.entry(&hashes[i]).or_default().push(i);
        }
        let mut groups: Vec<Vec<usize>> = by_image.into_values().collect();
        groups.sort();
        let mut done = subjects.len() - groups.iter().map(Vec::len).sum::<usize>();
        progress(done)?;
        for group in groups {
            let pixels = stacked(&[extraction.pixels(subjects[group[0]].path)?])?;
            let prompts: Vec<&str> = group.iter().map(|&i| subjects[i].prompt).collect();
            let rewards = reward.rewards(&pixels, &prompts)?;
            let batch: Vec<_> = group.iter().map(|&i| key(i)).zip(rewards.into_iter().map(|r| vec![r])).collect();
            cache.put(&batch)?;
            done += group.len();
            progress(done)?;
        }
        Ok((0..subjects.len()).filter_map(|i| cache.get(&key(i))).map(|values| values[0]).collect())
    }
}
