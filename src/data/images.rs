//! The images of a dataset as they are when a run begins.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::dataset::{Dataset, Sample, Subset};
use crate::error::{Error, Result};
use crate::formats::{content_hash, digest, image};
use crate::train::watcher::Watcher;

/// One image's file.
#[derive(Clone, Debug)]
pub struct ImageFile {
    /// Height and width in pixels, upright.
    pub size: (u32, u32),
    /// SHA-256 of the file.
    pub digest: String,
    /// Whether it has an alpha channel.
    pub alpha: bool,
}

impl ImageFile {
    /// Bytes that are in memory while it is decoded to 8-bit RGB and scaled to a shorter side of `side` pixels, which goes
    /// by way of f32 with four channels.
    pub fn decoding(&self, side: u32) -> u64 {
        let (h, w) = (u64::from(self.size.0), u64::from(self.size.1));
        let scaled = u64::from(side) * w.max(h) / w.min(h).max(1);
        3 * w * h + 16 * w.max(h) * scaled.min(w.max(h))
    }
}

/// Reads every file of `dataset` once.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming an image whose header is damaged.
pub fn survey(dataset: &Dataset, watcher: &mut dyn Watcher) -> Result<Vec<ImageFile>> {
    const AT_ONCE: usize = 64;
    let mut images = Vec::with_capacity(dataset.len());
    for samples in dataset.samples().chunks(AT_ONCE) {
        let some: Vec<ImageFile> = samples.par_iter().map(image).collect::<Result<_>>()?;
        images.extend(some);
        watcher.prepared("images read", images.len(), dataset.len());
    }
    Ok(images)
}

fn image(sample: &Sample) -> Result<ImageFile> {
    let bytes = std::fs::read(&sample.image).map_err(|e| Error::io(&sample.image, e))?;
    let (size, alpha) = (image::size(&bytes, &sample.image)?, image::has_alpha(&bytes, &sample.image)?);
    Ok(ImageFile { size, digest: content_hash::of_bytes(&bytes), alpha })
}

/// The hash of what a run learns from: names, images and captions, in their order.
pub fn content_hash(dataset: &Dataset, images: &[ImageFile]) -> String {
    let mut hash = Sha256::new();
    for (sample, image) in dataset.samples().iter().zip(images) {
        let name = sample.image.file_name().unwrap_or_default().as_encoded_bytes();
        for part in [name, image.digest.as_bytes(), sample.captions.join("\n").as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let subset = dataset.subset(sample);
        if *subset != Subset::default() {
            hash.update(format!("{subset:?}"));
        }
    }
    digest::hex(hash.finalize())
}
