//! Images: PNG, JPEG, WebP and BMP files to 8-bit RGB, and to and from `[h, w, 3]` values in [-1, 1].

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

use crate::device::memory::format_bytes;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The largest side that is read: a header that claims more is refused before memory is taken.
const MAX_SIDE: u32 = 32_768;
/// The most memory that one decoded image may take.
const MAX_BYTES: u64 = 1 << 30;

/// Reads and decodes a file.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] as for [`decode`].
pub fn read(path: &Path) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    decode(&bytes, path)
}

/// Decodes by content, not by the file's ending. Transparency is dropped, as by Pillow's `convert("RGB")`; the EXIF
/// orientation is applied, so that people stand upright.
///
/// # Errors
/// [`Error::File`] under the name `path` if the image is damaged, truncated, empty, or too large.
pub fn decode(bytes: &[u8], path: &Path) -> Result<RgbImage> {
    let (decoder, orientation) = header(bytes, path)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(path, e.to_string()))?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// As [`decode`], with `background` behind what is transparent.
///
/// # Errors
/// As [`decode`].
pub fn decode_over(bytes: &[u8], path: &Path, background: [u8; 3]) -> Result<RgbImage> {
    let (decoder, orientation) = header(bytes, path)?;
    if !decoder.color_type().has_alpha() {
        return decode(bytes, path);
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(path, e.to_string()))?;
    image.apply_orientation(orientation);
    let image = image.into_rgba8();
    let over = |pixel: &image::Rgba<u8>| {
        let alpha = f32::from(pixel[3]) / 255.0;
        let mixed = |i: usize| alpha * f32::from(pixel[i]) + (1.0 - alpha) * f32::from(background[i]);
        image::Rgb([0, 1, 2].map(|i| mixed(i).round() as u8))
    };
    let pixels: Vec<u8> = image.pixels().flat_map(|pixel| over(pixel).0).collect();
    Ok(RgbImage::from_raw(image.width(), image.height(), pixels).expect("three for each pixel"))
}

/// Whether the file has an alpha channel, by its header.
///
/// # Errors
/// As [`decode`], for what the header shows.
pub fn has_alpha(bytes: &[u8], path: &Path) -> Result<bool> {
    Ok(header(bytes, path)?.0.color_type().has_alpha())
}

/// The alpha channel in grey, turned as [`decode`] turns the image; none for an image without.
///
/// # Errors
/// As [`decode`].
pub fn alpha(bytes: &[u8], path: &Path) -> Result<Option<RgbImage>> {
    let (decoder, orientation) = header(bytes, path)?;
    if !decoder.color_type().has_alpha() {
        return Ok(None);
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(path, e.to_string()))?;
    image.apply_orientation(orientation);
    let image = image.into_rgba8();
    let pixels = image.pixels().flat_map(|pixel| [pixel[3]; 3]).collect();
    Ok(RgbImage::from_raw(image.width(), image.height(), pixels))
}

/// Decodes as it is stored: in its own colours, with transparency, without the EXIF orientation.
///
/// # Errors
/// As [`decode`].
pub fn decode_unturned(bytes: &[u8], path: &Path) -> Result<DynamicImage> {
    let (decoder, _) = header(bytes, path)?;
    DynamicImage::from_decoder(decoder).map_err(|e| unreadable(path, e.to_string()))
}

/// (height, width) of what [`decode`] would give, from the header alone.
///
/// # Errors
/// As [`decode`], for what the header shows.
pub fn size(bytes: &[u8], path: &Path) -> Result<(u32, u32)> {
    use image::metadata::Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let (decoder, orientation) = header(bytes, path)?;
    let (width, height) = decoder.dimensions();
    Ok(match orientation {
        Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (width, height),
        _ => (height, width),
    })
}

fn header<'a>(bytes: &'a [u8], path: &Path) -> Result<(impl ImageDecoder + 'a, image::metadata::Orientation)> {
    let refuse = |why: String| unreadable(path, why);
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| refuse(e.to_string()))?;
    if reader.format().is_none() {
        return Err(refuse("neither PNG, JPEG, WebP nor BMP".into()));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| refuse(e.to_string()))?;
    // The decoder keeps to the limit itself; nobody holds what it gives to it.
    let ((width, height), decoded) = (decoder.dimensions(), decoder.total_bytes());
    let converted = match decoder.color_type() {
        image::ColorType::Rgb8 => 0,
        _ => 3 * u64::from(width) * u64::from(height),
    };
    if decoded.saturating_add(converted) > MAX_BYTES {
        let (taken, most) = (format_bytes(decoded.saturating_add(converted)), format_bytes(MAX_BYTES));
        return Err(refuse(format!("{width}x{height} pixels take {taken}, and {most} is the most; make it smaller")));
    }
    // A damaged EXIF block says nothing about the pixels.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    Ok((decoder, orientation))
}

fn unreadable(path: &Path, why: String) -> Error {
    Error::file(path, format!("not a readable image: {why}"))
}

/// `[h, w, 3]` f32 in [-1, 1]: `v / 127.5 - 1`.
pub fn to_tensor(image: &RgbImage) -> Tensor {
    let values = image.as_raw().iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect();
    Tensor::new::<f32>(values, &[image.height() as usize, image.width() as usize, 3])
}

/// The images of `[n, h, w, 3]` or `[h, w, 3]` values: clamp(x / 2 + 0.5, 0, 1), rounded half to even to 8 bits, as
/// diffusers does.
///
/// # Errors
/// [`Error::Shape`] for any other shape.
pub fn from_tensor(x: &Tensor) -> Result<Vec<RgbImage>> {
    let (h, w) = match *x.shape() {
        [.., h, w, 3] if x.shape().len() <= 4 => (h, w),
        _ => {
            let message = format!("expected [n, h, w, 3], got {:?}", x.shape());
            return Err(Error::shape("image", message));
        }
    };
    let values = x.reals::<f32>();
    let images = values.chunks_exact(h * w * 3).map(|image| {
        // The cast maps NaN to 0.
        let bytes = image.iter().map(|v| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8);
        RgbImage::from_raw(w as u32, h as u32, bytes.collect()).expect("a chunk holds exactly one image")
    });
    Ok(images.collect())
}
