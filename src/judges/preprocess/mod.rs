//! An image as each judge's network wants it, to the pixel: which resizing, which crop, which order of steps.
//!
//! Sources: openai/CLIP, transformers' `CLIPImageProcessor` and `BlipImageProcessor`, HPSv2, CMMD's torch port,
//! pytorch-fid, clean-fid, torch-fidelity; resizing as Pillow 11 and PyTorch 2 do it.

mod decoded;
pub mod pillow;
mod resample;

use image::RgbImage;
use image::imageops::crop_imm;

pub use decoded::{DecodedImage, Mode};
use resample::Planes;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// CLIP's normalisation, which BLIP, ImageReward and HPS share.
const MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// The side that the Inception network of FID and KID takes.
pub const INCEPTION_SIZE: usize = 299;

/// How an image is brought to size and scale. The recipe is part of a judge's name: another one gives other scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// OpenAI CLIP, open_clip, CLIPScore, the aesthetic predictor, ImageReward: resized and cropped in the image's own
    /// mode, the crop's corner rounded half to even.
    ClipOpenai,
    /// transformers' `CLIPImageProcessor`, PickScore: made RGB first, the crop's corner rounded down.
    ClipTransformers,
    /// BLIP: straight to a square.
    Blip,
    /// HPS: the longest side to size, padded with black; bicubic without antialias, as torchvision did before 0.17.
    Hps,
    /// The same with antialias, as torchvision does it since.
    HpsAntialias,
    /// CMMD: the centre square, cut and resized in the image's own mode.
    Cmmd,
    /// FID by pytorch-fid: bilinear without antialias, in [-1, 1].
    FidPytorch,
    /// FID by clean-fid: bicubic on float channels.
    FidClean,
    /// FID and KID by torch-fidelity: TensorFlow 1's bilinear.
    FidTf1,
}

/// Recipes by name; the first of a recipe is its own.
const NAMES: [(&str, Recipe); 13] = [
    ("clip_openai", Recipe::ClipOpenai),
    ("open_clip", Recipe::ClipOpenai),
    ("clip_transformers", Recipe::ClipTransformers),
    // On 8-bit tensors PyTorch is within one level of Pillow.
    ("clip_transformers_torch", Recipe::ClipTransformers),
    ("blip", Recipe::Blip),
    ("blip_transformers", Recipe::Blip),
    ("blip_original", Recipe::Blip),
    ("hps", Recipe::Hps),
    ("hps_antialias", Recipe::HpsAntialias),
    ("cmmd", Recipe::Cmmd),
    ("fid_pytorch", Recipe::FidPytorch),
    ("fid_clean", Recipe::FidClean),
    ("fid_tf1", Recipe::FidTf1),
];

/// What a network is given.
pub struct Pixels {
    /// After resize and crop, before scaling; `None` where the recipe resizes floats.
    pub resized: Option<RgbImage>,
    /// `[size, size, 3]` f32.
    pub values: Tensor,
}

impl Recipe {
    /// # Errors
    /// [`Error::Usage`] for a name that no recipe has.
    pub fn parse(name: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, recipe)| *recipe).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            Error::Usage(format!("recipe {name}: expected one of {}", names.join(", ")))
        })
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, recipe)| *recipe == self).map_or("", |(name, _)| name)
    }

    /// The image in `[size, size, 3]`.
    ///
    /// # Errors
    /// [`Error::Failed`] for a size of 0, or an image so narrow that nothing of it would be left, or far too much.
    pub fn apply(self, image: &DecodedImage, size: usize) -> Result<Pixels> {
        let (w, h) = (image.width(), image.height());
        if size == 0 || size > 1 << 14 {
            return Err(Error::Failed(format!("cannot resize an image to {size}x{size}")));
        }
        let rgb = || image.to_rgb();
        let square = |resized: RgbImage| Pixels { values: normalised(&resized), resized: Some(resized) };
        Ok(match self {
            Recipe::ClipOpenai => {
                let (tw, th) = covering(w, h, size)?;
                let resized = image.resized(tw, th);
                let corner = |side: usize| ((side - size) as f64 / 2.0).round_ties_even() as usize;
                square(cropped(&resized.to_rgb(), corner(tw), corner(th), size))
            }
            Recipe::ClipTransformers => {
                let (tw, th) = covering(w, h, size)?;
                let resized = pillow::resize_rgb(&rgb(), tw, th);
                square(cropped(&resized, (tw - size) / 2, (th - size) / 2, size))
            }
            Recipe::Blip => square(pillow::resize_rgb(&rgb(), size, size)),
            Recipe::Cmmd => {
                let side = w.min(h);
                let centre = image.cropped((w - side) / 2, (h - side) / 2, side);
                square(centre.resized(size, size).to_rgb())
            }
            Recipe::Hps | Recipe::HpsAntialias => self.padded(&rgb(), size)?,
            Recipe::FidPytorch => floats(&Planes::of(&rgb(), 1.0 / 255.0).bilinear(size, size), |x, _| 2.0 * x - 1.0),
            Recipe::FidClean => {
                let planes = Planes::of(&rgb(), 1.0).pillow_bicubic(size, size);
                floats(&planes, |x, _| (x.clamp(0.0, 255.0) - 128.0) / 128.0)
            }
            Recipe::FidTf1 => floats(&Planes::of(&rgb(), 1.0).bilinear_tf1(size, size), |x, _| (x - 128.0) / 128.0),
        })
    }

    fn padded(self, image: &RgbImage, size: usize) -> Result<Pixels> {
        let (w, h) = (image.width() as usize, image.height() as usize);
        let longest = w.max(h);
        let scale = size as f64 / longest as f64;
        let side = |side: usize| (side as f64 * scale).round_ties_even() as usize;
        let (tw, th) = (side(w), side(h));
        if tw == 0 || th == 0 {
            return Err(narrow(w, h));
        }
        let planes = Planes::of(image, 1.0 / 255.0);
        let planes = match self {
            _ if longest == size => planes,
            Recipe::Hps => planes.bicubic(tw, th),
            _ => planes.bicubic_antialias(tw, th),
        };
        let padded = planes.padded(size, (size - tw) / 2, (size - th) / 2);
        Ok(floats(&padded, |x, c| (x - MEAN[c]) / STD[c]))
    }
}

/// The shorter side to `size`, the longer in proportion and rounded down.
fn covering(w: usize, h: usize, size: usize) -> Result<(usize, usize)> {
    let longer = |long: usize, short: usize| (size as f64 * long as f64 / short as f64) as usize;
    let (tw, th) = if w <= h { (size, longer(h, w)) } else { (longer(w, h), size) };
    if tw.max(th) > 1 << 16 {
        return Err(narrow(w, h));
    }
    Ok((tw, th))
}

fn narrow(w: usize, h: usize) -> Error {
    Error::Failed(format!("a {w}x{h} image is too narrow to be judged; leave it out or cut it"))
}

fn cropped(image: &RgbImage, left: usize, top: usize, size: usize) -> RgbImage {
    crop_imm(image, left as u32, top as u32, size as u32, size as u32).to_image()
}

fn normalised(image: &RgbImage) -> Tensor {
    let value = |(i, &v): (usize, &u8)| ((f64::from(v) / 255.0 - MEAN[i % 3]) / STD[i % 3]) as f32;
    let values: Vec<f32> = image.as_raw().iter().enumerate().map(value).collect();
    Tensor::new(values, &[image.height() as usize, image.width() as usize, 3])
}

fn floats(planes: &Planes, scale: impl Fn(f64, usize) -> f64) -> Pixels {
    let value = |(i, &x): (usize, &f32)| scale(f64::from(x), i % 3) as f32;
    let values: Vec<f32> = planes.values.iter().enumerate().map(value).collect();
    Pixels { resized: None, values: Tensor::new(values, &[planes.height, planes.width, 3]) }
}
