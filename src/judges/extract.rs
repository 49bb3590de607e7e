//! What a network makes of images: each is looked at once, and what was computed is kept.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::cache::{Key, ValueCache};
use super::clip::stacked;
use super::preprocess::{DecodedImage, Recipe};
use crate::error::{Error, Result};
use crate::formats::digest;
use crate::tensor::{DType, Tensor};

/// A network's values of images, with everything that they depend on.
pub struct Extraction<'a> {
    pub recipe: Recipe,
    /// Width and height of what the network takes.
    pub size: usize,
    /// SHA-256 of the weights.
    pub hash: &'a str,
    pub dtype: DType,
    /// Images that the network is given at a time.
    pub batch: usize,
    pub cache: &'a ValueCache,
    /// Set where an image has an alpha channel.
    pub alpha: &'a AtomicBool,
}

impl Extraction<'_> {
    /// Of `content` (a hash, a text), where `what` says what the values are.
    pub fn key(&self, what: &str, content: &str) -> Key {
        let recipe = format!("{} {}", self.recipe.name(), self.size);
        Key::of(&[what, content, self.hash, &recipe, self.dtype.name()])
    }

    /// `network` of `[n, size, size, 3]` pixels for each of `paths`, a row an image. `hashes` are those of the files. What was
    /// computed is on disk after each batch. `progress` is told how many images are done.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] naming an image that cannot be read or is too narrow; what `network` and `progress` say.
    pub fn rows(
        &self,
        what: &str,
        paths: &[&Path],
        hashes: &[String],
        progress: &mut dyn FnMut(usize) -> Result<()>,
        network: &dyn Fn(&Tensor) -> Result<Vec<Vec<f64>>>,
    ) -> Result<Vec<Vec<f64>>> {
        let keys: Vec<Key> = hashes.iter().map(|hash| self.key(what, hash)).collect();
        let mut seen = BTreeSet::new();
        let is_missing = |&i: &usize| self.cache.get(&keys[i]).is_none() && seen.insert(&hashes[i]);
        let missing: Vec<usize> = (0..paths.len()).filter(is_missing).collect();
        let known = paths.len() - missing.len();
        progress(known)?;
        for (done, batch) in missing.chunks(self.batch).enumerate() {
            let pixels = batch.par_iter().map(|&i| self.pixels(paths[i])).collect::<Result<Vec<_>>>()?;
            let rows = network(&stacked(&pixels)?)?;
            let rows: Vec<_> = batch.iter().map(|&i| keys[i].clone()).zip(rows).collect();
            self.cache.put(&rows)?;
            progress(known + done * self.batch + batch.len())?;
        }
        let row = |key: &Key| {
            let lost = || Error::Failed("a network gave fewer rows than it was given images".into());
            self.cache.get(key).ok_or_else(lost)
        };
        keys.iter().map(row).collect()
    }

    /// One image as the network takes it, `[size, size, 3]`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] naming an image that cannot be read or is too narrow.
    pub fn pixels(&self, path: &Path) -> Result<Tensor> {
        let image = DecodedImage::read(path)?;
        self.alpha.fetch_or(image.has_alpha(), Ordering::Relaxed);
        let pixels = self.recipe.apply(&image, self.size);
        Ok(pixels.map_err(|why| Error::file(path, why.to_string()))?.values)
    }
}

/// SHA-256 of each file.
///
/// # Errors
/// [`Error::Io`].
pub fn hashes(paths: &[&Path]) -> Result<Vec<String>> {
    paths.par_iter().map(|path| digest::file(path)).collect()
}
