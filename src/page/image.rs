//! Images inside a page.

use std::io::Cursor;
use std::path::Path;

use ::image::codecs::jpeg::JpegEncoder;
use ::image::imageops::{FilterType, resize};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};
use crate::formats::{image, png};

/// The longest side on the page; larger images become smaller ones, as JPEG.
const LARGEST: u32 = 256;

/// The image as a `data:` address.
///
/// # Errors
/// As [`image::read`].
pub fn data_uri(path: &Path) -> Result<String> {
    let image = image::read(path)?;
    let (width, height) = image.dimensions();
    let longest = width.max(height);
    let (kind, bytes) = if longest <= LARGEST {
        ("png", png::encode(&image, None)?)
    } else {
        let side = |side: u32| (side * LARGEST / longest).max(1);
        let small = resize(&image, side(width), side(height), FilterType::CatmullRom);
        let mut bytes = Cursor::new(Vec::new());
        let written = JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(&small);
        written.map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
        ("jpeg", bytes.into_inner())
    };
    Ok(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes)))
}
