//! The pictures of a dataset as they are when a run begins.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::dataset::{Dataset, Sample};
use crate::error::{Error, Result};
use crate::formats::image;
use crate::train::identity;
use crate::train::watcher::Watcher;

/// One picture's file.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Height and width in pixels, upright.
    pub size: (u32, u32),
    /// SHA-256 of the file.
    pub digest: String,
}

/// Reads every file of `dataset` once.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming a picture whose header is damaged.
pub fn survey(dataset: &Dataset, watcher: &mut dyn Watcher) -> Result<Vec<Picture>> {
    const AT_ONCE: usize = 64;
    let mut pictures = Vec::with_capacity(dataset.len());
    for samples in dataset.samples().chunks(AT_ONCE) {
        let some: Vec<Picture> = samples.par_iter().map(picture).collect::<Result<_>>()?;
        pictures.extend(some);
        watcher.prepared("pictures read", pictures.len(), dataset.len());
    }
    Ok(pictures)
}

fn picture(sample: &Sample) -> Result<Picture> {
    let bytes = std::fs::read(&sample.image).map_err(|e| Error::io(&sample.image, e))?;
    Ok(Picture { size: image::size(&bytes, &sample.image)?, digest: identity::of_bytes(&bytes) })
}

/// The hash of what a run learns from: names, pictures and captions, in their order.
pub fn identity(dataset: &Dataset, pictures: &[Picture]) -> String {
    let mut hash = Sha256::new();
    for (sample, picture) in dataset.samples().iter().zip(pictures) {
        let name = sample.image.file_name().unwrap_or_default().as_encoded_bytes();
        for part in [name, picture.digest.as_bytes(), sample.caption.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
