//! Where an image is learnt from: masks beside it, or its own transparency.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::data::dataset::{Dataset, Sample};
use crate::data::images::ImageFile;
use crate::data::preprocess::CropBox;
use crate::error::{Error, Result};
use crate::formats::{digest, image};

/// Endings of mask files.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// The masks of a run: white is learnt, black is not.
#[derive(Clone, Debug)]
pub enum Masks {
    /// The images' alpha channels: what is transparent is not learnt.
    Alpha,
    /// Files with the names of the images, and the hash of all of them.
    Files(BTreeMap<PathBuf, PathBuf>, String),
}

impl Masks {
    /// The masks in `dir` of all images of `dataset` but regularisation images.
    ///
    /// # Errors
    /// [`Error::File`] naming an image that has none, or a mask of other proportions than its image; [`Error::Io`].
    pub fn open(dir: &Path, dataset: &Dataset, images: &[ImageFile]) -> Result<Self> {
        let (mut files, mut hash) = (BTreeMap::new(), Sha256::new());
        let learnt = dataset.samples().iter().zip(images).filter(|(sample, _)| !dataset.subset(sample).is_reg);
        for (sample, file) in learnt {
            let stem = sample.image.file_stem().unwrap_or_default();
            let name = |ending: &str| dir.join(format!("{}.{ending}", stem.to_string_lossy()));
            let Some(mask) = ENDINGS.iter().map(|ending| name(ending)).find(|path| path.is_file()) else {
                let message = format!(
                    "has no mask in {}; expected {} or another image of that name",
                    dir.display(),
                    name("png").display()
                );
                return Err(Error::file(&sample.image, message));
            };
            let bytes = std::fs::read(&mask).map_err(|e| Error::io(&mask, e))?;
            let ((height, width), (h, w)) = (file.size, image::size(&bytes, &mask)?);
            if u64::from(w) * u64::from(height) != u64::from(h) * u64::from(width) {
                let message =
                    format!("is {w}x{h}, and its image {width}x{height}: a mask has the proportions of its image");
                return Err(Error::file(&mask, message));
            }
            hash.update(bytes);
            files.insert(sample.image.clone(), mask);
        }
        let hash = digest::hex(hash.finalize());
        Ok(Masks::Files(files, hash))
    }

    /// The share of each latent pixel `[h, w]` that is learnt, of an image cut to `crop_box`; 1 everywhere for an image without
    /// a mask.
    ///
    /// # Errors
    /// [`Error::File`] for a mask that is damaged.
    pub fn at(&self, sample: &Sample, crop_box: &CropBox, [h, w]: [usize; 2]) -> Result<Vec<f32>> {
        let mask = match self {
            Masks::Alpha => {
                let bytes = std::fs::read(&sample.image).map_err(|e| Error::io(&sample.image, e))?;
                image::alpha(&bytes, &sample.image)?
            }
            Masks::Files(files, _) => match files.get(&sample.image) {
                None => None,
                Some(path) => Some(image::read(path)?),
            },
        };
        let Some(mask) = mask else { return Ok(vec![1.0; h * w]) };
        // As the image is cut, then the mean of the pixels of each latent one.
        let cut = crop_box.apply(&mask);
        let (values, [rows, columns]) = (cut.data::<f32>(), [cut.shape()[0], cut.shape()[1]]);
        let (tall, wide) = (rows / h, columns / w);
        let mean = |at: usize| {
            let (top, left) = (at / w * tall, at % w * wide);
            let pixels = (top..top + tall).flat_map(|y| (left..left + wide).map(move |x| (y * columns + x) * 3));
            pixels.map(|pixel| (values[pixel] + 1.0) / 2.0).sum::<f32>() / (tall * wide) as f32
        };
        Ok((0..h * w).map(mean).collect())
    }
}
