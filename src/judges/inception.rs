//! FID's Inception network from its published files.

use std::path::Path;

use super::files::Files;
use super::layout;
use crate::device::Device;
use crate::error::Result;
use crate::nn::Inception;
use crate::tensor::{DType, Tensor};

pub struct Extractor {
    pub model: Inception,
    /// SHA-256 of the weights.
    pub hash: String,
}

/// From a folder or file, on `device`, with matrices in `dtype`.
///
/// # Errors
/// [`crate::Error::File`] naming what is missing or does not fit; what the device says.
pub fn load(place: &Path, device: &Device, dtype: DType) -> Result<Extractor> {
    let files = Files::find(place)?;
    let model = Inception::load(files.open(layout::own, dtype)?)?;
    model.to(device)?;
    Ok(Extractor { model, hash: files.hash()? })
}

/// The mean of a feature map `[n, h, w, c]` over its pixels: n times c values.
///
/// # Errors
/// What the device says.
pub fn spatial_means(map: &Tensor) -> Result<Vec<f32>> {
    let [n, h, w, c] = map.dims("Inception")?;
    let map = map.to_cpu()?;
    let mut sums = vec![0.0; n * c];
    for (image, values) in map.reals::<f64>().chunks_exact((h * w * c).max(1)).enumerate() {
        for pixel in values.chunks_exact(c) {
            sums[image * c..][..c].iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
        }
    }
    Ok(sums.iter().map(|sum| (sum / (h * w) as f64) as f32).collect())
}
