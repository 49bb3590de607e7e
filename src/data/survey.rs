//! What is said of a dataset before training: sizes, crops, enlarged images, duplicates, empty captions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::buckets::{Buckets, Fit};
use super::dataset::{Dataset, count, named};
use super::images::ImageFile;
use crate::error::{Error, Result};

/// Images that lose more than this share of themselves to the crop are named.
const CROPPED: f64 = 0.1;

/// What becomes of each image: its bucket, or nothing where `buckets` is `None` and all are cropped to one square.
///
/// # Errors
/// [`Error::File`] naming an image that is smaller than the smallest bucket.
pub fn fits(dataset: &Dataset, images: &[ImageFile], buckets: Option<&Buckets>) -> Result<Vec<Option<Fit>>> {
    let fit = |(sample, image): (&super::dataset::Sample, &ImageFile)| {
        let Some(buckets) = buckets else {
            return Ok(None);
        };
        let (h, w) = image.size;
        buckets.fit((w, h)).map(Some).ok_or_else(|| {
            let message = format!(
                "a {w}x{h} image is smaller than the smallest bucket; leave it out, or enlarge small images by --bucket-upscale"
            );
            Error::file(&sample.image, message)
        })
    };
    dataset.samples().iter().zip(images).map(fit).collect()
}

/// A table of sizes, and a line for each thing that one would want to know. `side` is the training resolution.
pub fn table(dataset: &Dataset, images: &[ImageFile], fits: &[Option<Fit>], side: u32) -> Vec<String> {
    let mut sizes: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    let (mut cropped, mut enlarged, mut empty) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_content: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
    for ((sample, image), fit) in dataset.samples().iter().zip(images).zip(fits) {
        let (h, w) = (f64::from(image.size.0), f64::from(image.size.1));
        let (resized, target) = match fit {
            Some(fit) => ((f64::from(fit.resized.0), f64::from(fit.resized.1)), fit.bucket),
            None => {
                let scale = f64::from(side) / w.min(h);
                ((w * scale, h * scale), (side, side))
            }
        };
        *sizes.entry(target).or_default() += 1;
        let kept = f64::from(target.0) * f64::from(target.1) / (resized.0 * resized.1);
        if 1.0 - kept > CROPPED {
            cropped.push(sample.image.clone());
        }
        if resized.0 > w + 0.5 || resized.1 > h + 0.5 {
            enlarged.push(sample.image.clone());
        }
        if sample.captions.iter().any(String::is_empty) {
            empty.push(sample.image.clone());
        }
        let same = by_content.entry(&image.digest).or_default();
        if !same.contains(&sample.image) {
            same.push(sample.image.clone());
        }
    }
    let mut lines = vec![format!("{} in {}:", count(dataset.len(), "image"), count(sizes.len(), "size"))];
    lines.extend(sizes.iter().map(|((w, h), images)| format!("  {w:>5} x {h:<5} {images:>6}")));
    let mut say = |paths: &[PathBuf], what: &str| {
        if !paths.is_empty() {
            lines.push(format!("  {what}: {}: {}", paths.len(), named(paths)));
        }
    };
    say(&cropped, "cropped by more than a tenth");
    say(&enlarged, "enlarged");
    say(&empty, "without words in a caption");
    let doubled: Vec<PathBuf> = by_content.into_values().filter(|same| same.len() > 1).flatten().collect();
    say(&doubled, "there more than once");
    lines
}
