//! Images to training size: shorter side resized with Lanczos, cropped, flipped, scaled to [-1, 1].

use image::RgbImage;
use image::imageops::{self, FilterType};

use super::rng::{Purpose, Rng};
use crate::error::{Error, Result};
use crate::formats;
use crate::settings::named;
use crate::tensor::Tensor;

/// Longest side after resizing: an image of one row would otherwise take all memory.
const LONGEST_SIDE: u32 = 32_768;

/// Where the crop is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Crop {
    Random,
    Center,
}

named!(Crop, "crop");

/// What is done to every image of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preprocess {
    pub width: u32,
    pub height: u32,
    pub crop: Crop,
    /// Mirror every other image, by chance.
    pub flip: bool,
}

/// What is done to one image in one epoch. SDXL is told the sizes and the crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// (height, width) of the file.
    pub original: (u32, u32),
    /// (height, width) before the crop.
    pub resized: (u32, u32),
    /// (top, left) of the crop.
    pub crop: (u32, u32),
    /// (height, width) of the crop.
    pub target: (u32, u32),
    pub flipped: bool,
}

impl Preprocess {
    /// Draws the crop of image `index` in `epoch`: the same for the same (seed, index, epoch).
    ///
    /// # Errors
    /// [`Error::Failed`] for an image or a target without pixels, or an image far too narrow.
    pub fn crop_box(&self, original: (u32, u32), seed: u64, index: u64, epoch: u64) -> Result<CropBox> {
        let (h, w) = original;
        if h == 0 || w == 0 || self.height == 0 || self.width == 0 {
            let target = (self.width, self.height);
            return Err(Error::Failed(format!("cannot fit a {w}x{h} image to {}x{}", target.0, target.1)));
        }
        // The larger of the two scales covers the target; the other side is cut, as torchvision's Resize does.
        let (height, width) = (u64::from(self.height), u64::from(self.width));
        let resized = if u64::from(h) * width <= u64::from(w) * height {
            (self.height, clamped(u64::from(w) * height / u64::from(h)))
        } else {
            (clamped(u64::from(h) * width / u64::from(w)), self.width)
        };
        if resized.0.max(resized.1) > LONGEST_SIDE {
            let message = format!("a {w}x{h} image is too narrow to be resized and cropped; leave it out or cut it");
            return Err(Error::Failed(message));
        }
        Ok(self.crop_within(original, resized, (self.height, self.width), [seed, index, epoch]))
    }

    /// Draws the crop of an image that is scaled to `resized` and cut to `target`, both (height, width): the same for the
    /// same seed, index and epoch.
    pub fn crop_within(
        &self,
        original: (u32, u32),
        resized: (u32, u32),
        target: (u32, u32),
        [seed, index, epoch]: [u64; 3],
    ) -> CropBox {
        let spare = (resized.0 - target.0, resized.1 - target.1);
        let mut rng = Rng::new(seed, Purpose::Crop, index, epoch);
        // All three are always drawn, so that one setting does not change what another one gives.
        let random = (rng.below(u64::from(spare.0) + 1) as u32, rng.below(u64::from(spare.1) + 1) as u32);
        let heads = rng.next() >> 63 == 1;
        CropBox {
            original,
            resized,
            crop: match self.crop {
                Crop::Random => random,
                Crop::Center => (spare.0 / 2, spare.1 / 2),
            },
            target,
            flipped: self.flip && heads,
        }
    }
}

impl CropBox {
    /// `[h, w, 3]` f32 in [-1, 1].
    pub fn apply(&self, image: &RgbImage) -> Tensor {
        let (h, w) = self.resized;
        let resized = if (image.height(), image.width()) == self.resized {
            image.clone()
        } else {
            imageops::resize(image, w, h, FilterType::Lanczos3)
        };
        let ((top, left), (height, width)) = (self.crop, self.target);
        let mut cropped = imageops::crop_imm(&resized, left, top, width, height).to_image();
        if self.flipped {
            imageops::flip_horizontal_in_place(&mut cropped);
        }
        formats::image::to_tensor(&cropped)
    }

    /// SDXL's `[original h, w, crop top, left, target h, w]`. A mirrored image's left edge is its old right edge.
    pub fn time_ids(&self) -> [f32; 6] {
        let left = match self.flipped {
            true => self.resized.1 - self.crop.1 - self.target.1,
            false => self.crop.1,
        };
        let ids = [self.original.0, self.original.1, self.crop.0, left, self.target.0, self.target.1];
        ids.map(|v| v as f32)
    }

    /// All that decides the pixels, for a cache key.
    pub fn content(&self) -> String {
        let ((h, w), (top, left), (height, width)) = (self.resized, self.crop, self.target);
        let flipped = self.flipped;
        format!("lanczos3 {h}x{w} crop {top},{left} {height}x{width} flipped {flipped}")
    }
}

fn clamped(side: u64) -> u32 {
    u32::try_from(side).unwrap_or(u32::MAX)
}
