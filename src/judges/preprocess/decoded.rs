//! A decoded image in the mode of its file: some judges resize before they make it RGB.

use std::path::Path;

use image::{DynamicImage, RgbImage};

use super::pillow::{self, Bytes};
use crate::error::{Error, Result};
use crate::formats;

/// Pillow's modes, as far as they resize in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Grey or RGB.
    Opaque,
    /// Grey or RGB with alpha: resized with premultiplied colours.
    Alpha,
    /// Colours of a palette, or black and white: resized to the nearest pixel.
    Palette,
}

pub struct DecodedImage {
    mode: Mode,
    /// RGB, or RGBA in mode [`Mode::Alpha`].
    bytes: Bytes,
}

impl DecodedImage {
    /// # Errors
    /// As [`DecodedImage::decode`]; [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::decode(&bytes, path)
    }

    /// Decodes without turning: none of the judges' original programs obeys the EXIF orientation.
    ///
    /// # Errors
    /// [`Error::File`] under the name `path` if the image is damaged, empty, or too large.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self> {
        let image = formats::image::decode_unturned(bytes, path)?;
        let alpha = image.color().has_alpha();
        let mode = match png_header(bytes) {
            Some((3, _) | (0, 1)) => Mode::Palette,
            // A transparent colour is a note in the file, not a channel.
            Some((0 | 2, _)) => Mode::Opaque,
            _ if alpha => Mode::Alpha,
            _ => Mode::Opaque,
        };
        Ok(Self::new(mode, image))
    }

    fn new(mode: Mode, image: DynamicImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (channels, data) = match mode {
            Mode::Alpha => (4, image.into_rgba8().into_raw()),
            _ => (3, image.into_rgb8().into_raw()),
        };
        Self { mode, bytes: Bytes { width, height, channels, data } }
    }

    pub fn width(&self) -> usize {
        self.bytes.width
    }

    pub fn height(&self) -> usize {
        self.bytes.height
    }

    /// Whether the file has an alpha channel, which [`DecodedImage::to_rgb`] drops.
    pub fn has_alpha(&self) -> bool {
        self.mode == Mode::Alpha
    }

    /// Drops alpha and shows the hidden colours, as Pillow's `convert("RGB")` does.
    pub fn to_rgb(&self) -> RgbImage {
        let data = match self.bytes.channels {
            4 => self.bytes.data.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
            _ => self.bytes.data.clone(),
        };
        RgbImage::from_raw(self.width() as u32, self.height() as u32, data).expect("three bytes a pixel")
    }

    /// A square of side `size`.
    ///
    /// # Panics
    /// If it leaves the image.
    pub fn cropped(&self, left: usize, top: usize, size: usize) -> DecodedImage {
        let channels = self.bytes.channels;
        let row = |y: usize| &self.bytes.data[((top + y) * self.width() + left) * channels..][..size * channels];
        let data = (0..size).flat_map(|y| row(y).iter().copied()).collect();
        DecodedImage { mode: self.mode, bytes: Bytes { width: size, height: size, channels, data } }
    }

    /// Bicubic as Pillow does it in the image's mode.
    pub fn resized(&self, width: usize, height: usize) -> DecodedImage {
        let bytes = match self.mode {
            _ if (width, height) == (self.width(), self.height()) => self.bytes.clone(),
            Mode::Opaque => pillow::resize(&self.bytes, width, height),
            Mode::Alpha => pillow::resize_with_alpha(&self.bytes, width, height),
            Mode::Palette => pillow::nearest(&self.bytes, width, height),
        };
        DecodedImage { mode: self.mode, bytes }
    }
}

impl From<RgbImage> for DecodedImage {
    fn from(image: RgbImage) -> Self {
        Self::new(Mode::Opaque, image.into())
    }
}

/// Colour type and bit depth of a PNG file.
fn png_header(bytes: &[u8]) -> Option<(u8, u8)> {
    bytes.starts_with(b"\x89PNG\r\n\x1a\n").then(|| Some((*bytes.get(25)?, *bytes.get(24)?)))?
}
