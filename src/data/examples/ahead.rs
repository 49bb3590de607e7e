//! What is encoded before the first step: captions, and the crops of images.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Examples;
use crate::data::preprocess::{Crop, CropBox};
use crate::error::{Error, Result};
use crate::train::watcher::Watcher;

/// Latents that are encoded ahead may take this much of the disk, whatever the crops; beyond it only datasets with at
/// most two crops an image are.
pub(super) const AHEAD_BYTES: usize = 4 << 30;

impl Examples {
    /// Encodes what the micro-batches `numbers` and the texts `more` need, as far as it is not in the cache, and drops
    /// the encoders. Images are left for the steps, and the VAE is then loaded for them, where random crops would fill
    /// the disk with latents that are used once.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the watcher says stop; whatever is wrong with an image or an encoder.
    pub fn prepare(&mut self, numbers: Range<u64>, more: &[String], watcher: &mut dyn Watcher) -> Result<()> {
        match self.config.train_text_encoder {
            true => watcher.note("the text encoder is trained: captions are encoded anew at every step, none ahead"),
            false => self.prepare_texts(numbers.clone(), more, watcher)?,
        }
        self.encoders.forget();
        if self.latents.is_some() {
            return Ok(());
        }

        let crops = self.crops(numbers)?;
        let few = self.config.crop == Crop::Center || crops.len() <= 2 * self.len();
        self.ahead = few || crops.len() * self.posterior_bytes <= self.ahead_bytes;
        if !self.ahead {
            watcher.note("the random crops are encoded as they come: there are too many of them to be kept");
            return Ok(());
        }
        if !few {
            watcher.note(&format!(
                "{} different crops of {} images are encoded first; --crop center needs at most two an image",
                crops.len(),
                self.len()
            ));
        }
        for (i, (index, crop_box)) in crops.iter().enumerate() {
            go_on(watcher)?;
            let (sample, image) = (&self.dataset.samples()[*index], &self.images[*index]);
            self.encoders.posterior(sample, image, crop_box, true)?;
            watcher.prepared("images encoded", i + 1, crops.len());
        }
        self.encoders.forget();
        Ok(())
    }

    /// Encodes the texts that the micro-batches `numbers` need, and `more`.
    fn prepare_texts(&mut self, numbers: Range<u64>, more: &[String], watcher: &mut dyn Watcher) -> Result<()> {
        let mut captions: BTreeSet<String> = more.iter().cloned().collect();
        for sample in self.dataset.samples() {
            let variation = &self.dataset.subset(sample).variation;
            if variation.dropout > 0.0 {
                captions.insert(String::new());
            }
            if !variation.has_many_forms() {
                captions.extend(sample.captions.iter().map(|caption| variation.whole(caption)));
            }
        }
        self.encode_captions(&captions, watcher)?;
        if self.dataset.captions_vary() {
            let forms = self.forms(numbers);
            let bytes = self.encoders.text("", true)?.context.bytes().len();
            self.texts_ahead = forms.len() * bytes <= self.ahead_bytes;
            match self.texts_ahead {
                true => self.encode_captions(&forms, watcher)?,
                false => watcher.note("captions are encoded as they come: they have too many forms to be kept"),
            }
        }
        Ok(())
    }

    fn encode_captions(&mut self, captions: &BTreeSet<String>, watcher: &mut dyn Watcher) -> Result<()> {
        for (i, caption) in captions.iter().enumerate() {
            go_on(watcher)?;
            self.encoders.text(caption, true)?;
            watcher.prepared("captions encoded", i + 1, captions.len());
        }
        Ok(())
    }

    /// The different captions in the micro-batches `numbers`.
    fn forms(&mut self, numbers: Range<u64>) -> BTreeSet<String> {
        let mut forms = BTreeSet::new();
        for number in numbers {
            for (position, item) in self.positions(number) {
                forms.insert(self.caption(position, &item));
            }
        }
        forms
    }

    /// The different crops in the micro-batches `numbers`, each with its image's index.
    fn crops(&mut self, numbers: Range<u64>) -> Result<Vec<(usize, CropBox)>> {
        let (mut seen, mut crops) = (BTreeSet::new(), Vec::new());
        for number in numbers {
            for item in self.loader.batch(number) {
                let (sample, crop_box) = (self.sample(&item), self.crop_box(&item)?);
                if seen.insert((sample, crop_box.crop, crop_box.flipped)) {
                    crops.push((sample, crop_box));
                }
            }
        }
        Ok(crops)
    }
}

fn go_on(watcher: &dyn Watcher) -> Result<()> {
    match watcher.stopped() {
        false => Ok(()),
        true => Err(Error::Interrupted(
            "stopped before the first step; the same command goes on, and what was encoded is kept".into(),
        )),
    }
}
