//! LPIPS from its published files.

use std::path::Path;

use image::RgbImage;

use super::files::Files;
use super::layout;
use super::preprocess::{DecodedImage, pillow};
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::nn::Lpips;
use crate::tensor::{DType, Tensor};

pub struct Metric {
    pub model: Lpips,
    /// SHA-256 of the weights.
    pub hash: String,
}

/// From a folder or file, on `device`, with matrices in `dtype`.
///
/// # Errors
/// [`crate::Error::File`] naming what is missing or does not fit; what the device says.
pub fn load(place: &Path, device: &Device, dtype: DType) -> Result<Metric> {
    let files = Files::find(place)?;
    let model = Lpips::load(files.open(layout::lpips, dtype)?)?;
    model.to(device)?;
    Ok(Metric { model, hash: files.hash()? })
}

/// How different `candidate` looks from `reference`, to whose size it is brought.
///
/// # Errors
/// As [`Lpips::distance`].
pub fn distance(model: &Lpips, reference: &DecodedImage, candidate: &DecodedImage) -> Result<f64> {
    let reference = reference.to_rgb();
    let (width, height) = (reference.width() as usize, reference.height() as usize);
    let candidate = pillow::resize_rgb(&candidate.to_rgb(), width, height);
    let [a, b] = [&reference, &candidate].map(scaled);
    Ok(model.distance(&Tape::off(), &a, &b)?[0])
}

/// `[1, h, w, 3]` in [-1, 1].
fn scaled(image: &RgbImage) -> Tensor {
    let values = image.as_raw().iter().map(|&x| f32::from(x) / 127.5 - 1.0);
    Tensor::new(values.collect(), &[1, image.height() as usize, image.width() as usize, 3])
}
