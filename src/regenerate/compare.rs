//! How like its reference a candidate is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats;
use crate::judges::clip::{Clip, cosine, stacked};
use crate::judges::preprocess::{DecodedImage, Recipe};
use crate::metrics::similarity::similarity;
use crate::tensor::DType;

/// What decides which candidate is the best. Larger is better in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Cosine of the CLIP embeddings of both images.
    ClipI,
    /// Structural similarity of luma.
    Ssim,
    /// Peak signal-to-noise ratio.
    Psnr,
    /// Mean absolute difference, negated.
    Mae,
    /// Overlap of colour histograms.
    Histogram,
}

/// All metrics of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Likeness {
    /// None without CLIP.
    pub clip_i: Option<f64>,
    /// None where a side is below 11 pixels.
    pub ssim: Option<f64>,
    /// In decibels; none for identical images.
    pub psnr: Option<f64>,
    pub mae: f64,
    pub histogram: f64,
    pub identical: bool,
}

/// A reference, and what compares with it.
pub struct Comparison<'a> {
    reference: PathBuf,
    image: image::RgbImage,
    clip: Option<(&'a Clip, Vec<f64>)>,
}

impl Objective {
    pub fn name(self) -> &'static str {
        match self {
            Objective::ClipI => "clip-i",
            Objective::Ssim => "ssim",
            Objective::Psnr => "psnr",
            Objective::Mae => "mae",
            Objective::Histogram => "histogram",
        }
    }

    /// The score of a candidate. An identical one has an infinite ratio, which counts as the largest finite number.
    ///
    /// # Errors
    /// [`Error::Failed`] where the metric is undefined for these images.
    pub fn of(self, likeness: &Likeness) -> Result<f64> {
        let value = match self {
            Objective::ClipI => likeness.clip_i,
            Objective::Ssim => likeness.ssim,
            Objective::Psnr => likeness.psnr.or(likeness.identical.then_some(f64::MAX)),
            Objective::Mae => Some(-likeness.mae),
            Objective::Histogram => Some(likeness.histogram),
        };
        value.ok_or_else(|| Error::Failed(format!("--objective {}: undefined for these images", self.name())))
    }
}

impl<'a> Comparison<'a> {
    /// # Errors
    /// [`Error::Io`], [`Error::File`] for a reference that cannot be read.
    pub fn with(reference: &Path, clip: Option<&'a Clip>) -> Result<Self> {
        let image = formats::image::read(reference)?;
        let clip = clip.map(|clip| Ok::<_, Error>((clip, embedding(clip, reference)?))).transpose()?;
        Ok(Self { reference: reference.into(), image, clip })
    }

    pub fn reference(&self) -> &Path {
        &self.reference
    }

    /// The metrics of a candidate, which is resized to the reference's size where it has another.
    ///
    /// # Errors
    /// As [`Comparison::with`].
    pub fn likeness(&self, candidate: &Path) -> Result<Likeness> {
        let similarity = similarity(&self.image, &formats::image::read(candidate)?);
        let clip_i = match &self.clip {
            None => None,
            Some((clip, own)) => Some(cosine(own, &embedding(clip, candidate)?)),
        };
        Ok(Likeness {
            clip_i,
            ssim: similarity.ssim_luma,
            psnr: similarity.psnr,
            mae: similarity.mae,
            histogram: similarity.histogram_intersection,
            identical: similarity.identical,
        })
    }
}

/// # Errors
/// As [`Clip::load`].
pub fn load_clip(weights: &Path, device: &Device, dtype: DType) -> Result<Clip> {
    Clip::load(weights, device, dtype)
}

fn embedding(clip: &Clip, path: &Path) -> Result<Vec<f64>> {
    let size = clip.model.image_size();
    let pixels = Recipe::ClipOpenai.apply(&DecodedImage::read(path)?, size);
    let pixels = pixels.map_err(|why| Error::file(path, why.to_string()))?;
    let mut rows = clip.image_embeds(&stacked(&[pixels.values])?)?;
    rows.pop().ok_or_else(|| Error::Failed("CLIP gave no embedding".into()))
}
