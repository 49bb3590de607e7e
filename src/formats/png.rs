//! Writing PNG files, with a text that says how an image was made.

use std::borrow::Cow;
use std::io::Cursor;
use std::path::Path;

use image::RgbImage;

use crate::error::{Error, Result};
use crate::formats::atomic;

/// The keyword under which webui and its relatives keep an image's settings.
const PARAMETERS: &str = "parameters";

/// A PNG file's bytes: the same for the same pixels and text, and without any clock. `parameters` goes into a text chunk:
/// Latin-1 where it can be that, as Pillow writes it, else UTF-8.
///
/// # Errors
/// [`Error::Failed`] if the encoder refuses, which it does for an empty image.
pub fn encode(image: &RgbImage, parameters: Option<&str>) -> Result<Vec<u8>> {
    let (width, height) = image.dimensions();
    let mut bytes = Vec::new();
    write(&mut bytes, image, parameters)
        .map_err(|e| Error::Failed(format!("cannot encode a {width}x{height} PNG: {e}")))?;
    Ok(bytes)
}

fn write(bytes: &mut Vec<u8>, image: &RgbImage, parameters: Option<&str>) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    encoder.set_filter(png::Filter::Adaptive);
    if let Some(text) = parameters {
        // The format ends texts at a zero byte.
        let text = text.replace('\0', " ");
        match text.chars().all(|c| u32::from(c) <= 0xff) {
            true => encoder.add_text_chunk(PARAMETERS.into(), text)?,
            false => encoder.add_itxt_chunk(PARAMETERS.into(), text)?,
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    writer.finish()
}

/// Writes a PNG whole: to a temporary name, then renamed.
///
/// # Errors
/// [`Error::Io`], or as for [`encode`].
pub fn save(path: &Path, image: &RgbImage, parameters: Option<&str>) -> Result<()> {
    atomic::write_bytes(path, &encode(image, parameters)?)
}

/// The text that [`encode`] put into a file; none where there is none, or the file is damaged.
pub fn parameters(bytes: &[u8]) -> Option<Cow<'static, str>> {
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().ok()?;
    reader.finish().ok()?;
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|t| t.keyword == PARAMETERS);
    let utf8 = info.utf8_text.iter().find(|t| t.keyword == PARAMETERS);
    match (latin, utf8) {
        (Some(text), _) => Some(text.text.clone().into()),
        (None, Some(text)) => text.get_text().ok().map(Cow::from),
        _ => None,
    }
}
