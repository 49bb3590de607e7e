//! Low-level quality of an image, from its pixels alone: sharpness, noise, exposure. Larger is better in each.

use image::RgbImage;
use rayon::prelude::*;

use super::folder::Entry;
use super::scores::{ScoredImage, Scores};
use crate::error::{Error, Result};
use crate::formats;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Variance of the Laplacian of luma, in squared levels of 255 (Pech-Pacheco et al. 2000, ICPR).
    Sharpness,
    /// The standard deviation of the noise in luma, negated, in levels of 255 (Immerkaer 1996, CVIU 64(2)).
    Noise,
    /// How near to the middle of the range the values of a pixel are, 0 to 1 (Mertens et al. 2007, Pacific Graphics: the
    /// well-exposedness, sigma 0.2).
    Exposure,
}

impl Measure {
    pub const ALL: [Measure; 3] = [Measure::Sharpness, Measure::Noise, Measure::Exposure];

    /// None for another name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Measure::Sharpness => "sharpness",
            Measure::Noise => "noise",
            Measure::Exposure => "exposure",
        }
    }

    fn rule(self) -> &'static str {
        match self {
            Measure::Sharpness => "variance of the Laplacian of luma",
            Measure::Noise => "noise in luma, negated (Immerkaer)",
            Measure::Exposure => "well-exposedness (Mertens et al.)",
        }
    }

    /// The measure of an image; none where it has fewer than 3 pixels to a side.
    pub fn of(self, image: &RgbImage) -> Option<f64> {
        if image.width() < 3 || image.height() < 3 {
            return None;
        }
        Some(match self {
            Measure::Sharpness => {
                let values = filtered(image, [0.0, 1.0, -4.0]);
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64
            }
            Measure::Noise => {
                let values = filtered(image, [1.0, -2.0, 4.0]);
                let mean = values.iter().map(|v| v.abs()).sum::<f64>() / values.len() as f64;
                -(std::f64::consts::PI / 2.0).sqrt() * mean / 6.0
            }
            Measure::Exposure => {
                let exponent = |v: &u8| -(f64::from(*v) / 255.0 - 0.5).powi(2) / (2.0 * 0.2 * 0.2);
                let pixel = |p: &image::Rgb<u8>| p.0.iter().map(exponent).sum::<f64>().exp();
                image.pixels().map(pixel).sum::<f64>() / f64::from(image.width() * image.height())
            }
        })
    }
}

/// Luma (Rec. 601) under a symmetric 3x3 kernel of corner, edge and middle, where it fits.
fn filtered(image: &RgbImage, [corner, edge, middle]: [f64; 3]) -> Vec<f64> {
    let (w, h) = (image.width() as usize, image.height() as usize);
    let luma = |p: &image::Rgb<u8>| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]);
    let luma: Vec<f64> = image.pixels().map(luma).collect();
    let at = |x: usize, y: usize| luma[y * w + x];
    let value = |x: usize, y: usize| {
        let corners = at(x - 1, y - 1) + at(x + 1, y - 1) + at(x - 1, y + 1) + at(x + 1, y + 1);
        let edges = at(x, y - 1) + at(x - 1, y) + at(x + 1, y) + at(x, y + 1);
        corner * corners + edge * edges + middle * at(x, y)
    };
    (1..h - 1).flat_map(|y| (1..w - 1).map(move |x| (x, y))).map(|(x, y)| value(x, y)).collect()
}

/// Scores images; `seed` is that of the intervals.
///
/// # Errors
/// [`Error::Io`], [`Error::File`] for an image that cannot be read or is too small; as [`Scores::of`].
pub fn evaluate(measure: Measure, entries: &[Entry], seed: u64) -> Result<Scores> {
    let one = |entry: &Entry| -> Result<ScoredImage> {
        let score = measure.of(&formats::image::read(&entry.path)?);
        Ok(ScoredImage {
            file_name: entry.file_name.clone(),
            prompt: entry.prompt.clone(),
            skill: entry.skill.clone(),
            item_id: entry.item_id.clone(),
            family: None,
            seed: entry.seed,
            index: entry.index,
            score: score.ok_or_else(|| Error::file(&entry.path, "is smaller than 3 x 3 pixels"))?,
            questions: Vec::new(),
        })
    };
    let images = entries.par_iter().map(one).collect::<Result<_>>()?;
    Scores::of(measure.name(), measure.rule(), images, seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{self, Stream};

    #[test]
    fn of_known_images() {
        let flat = |v: u8| RgbImage::from_pixel(64, 64, image::Rgb([v; 3]));
        assert_eq!(Measure::Sharpness.of(&flat(90)), Some(0.0));
        assert_eq!(Measure::Noise.of(&flat(90)), Some(0.0));
        let black = Measure::Exposure.of(&flat(0)).unwrap();
        assert!((black - (-3.0 * 0.25 / 0.08f64).exp()).abs() < 1e-12);
        assert!(Measure::Exposure.of(&flat(128)).unwrap() > 0.999);
        // A step of 100 levels: two columns of 62 have a Laplacian of 100 and -100.
        let step = RgbImage::from_fn(64, 64, |x, _| image::Rgb([if x < 32 { 50 } else { 150 }; 3]));
        assert!((Measure::Sharpness.of(&step).unwrap() - 2.0 * 1e4 / 62.0).abs() < 1e-6);
        assert_eq!(Measure::Sharpness.of(&RgbImage::new(2, 9)), None);
    }

    #[test]
    fn the_noise_that_was_added_is_found() {
        let normals = random::normals(1, Stream::Noise, 0, 0, 128 * 128);
        let noisy = |sigma: f32| {
            RgbImage::from_fn(128, 128, |x, y| {
                let v = 128.0 + sigma * normals[(y * 128 + x) as usize];
                image::Rgb([v.round().clamp(0.0, 255.0) as u8; 3])
            })
        };
        for sigma in [5.0, 20.0] {
            // The mean of 126 * 126 absolute values, correlated over 9 pixels: within 3 standard errors of 2.4 %.
            let found = -Measure::Noise.of(&noisy(sigma)).unwrap();
            assert!((found / f64::from(sigma) - 1.0).abs() < 0.07, "{sigma}: {found}");
        }
    }
}
