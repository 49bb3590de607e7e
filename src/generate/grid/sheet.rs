//! The sheet of a grid: a title, columns and rows with their labels, and the images.

use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

/// The longer side of a cell lies between these.
const LEAST: u32 = 128;
const MOST: u32 = 512;
/// Pixels around cells and labels.
const GAP: u32 = 8;
const GLYPH: u32 = 8;
const PAPER: Rgb<u8> = Rgb([255; 3]);
const INK: Rgb<u8> = Rgb([20; 3]);

/// `images` row by row, as many as columns times rows (one row without labels where there are none).
pub fn sheet(title: &str, columns: &[String], rows: &[String], images: &[RgbImage]) -> RgbImage {
    let (width, height) = images.first().map_or((1, 1), |image| (image.width().max(1), image.height().max(1)));
    let longer = width.max(height);
    // Small images are enlarged by whole numbers, which keeps their pixels sharp.
    let side = |length: u32| match longer {
        small if small < LEAST => length * (LEAST / small).max(1),
        large => (length * large.min(MOST) / large).max(1),
    };
    let (width, height) = (side(width), side(height));
    let scale = if width >= 256 { 2 } else { 1 };
    let line = GLYPH * scale;
    let of = |text: &String| text.chars().count() as u32 * line;
    let column = width.max(columns.iter().map(of).max().unwrap_or(0).min(2 * width)) + GAP;
    let left = match rows.iter().map(of).max() {
        Some(widest) => widest.min(2 * width.max(LEAST)) + 2 * GAP,
        None => GAP,
    };
    let top = 3 * GAP + 2 * line;
    let count = rows.len().max(1) as u32;
    let size = (left + column * columns.len() as u32, top + (height + GAP) * count);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, PAPER);
    write(&mut sheet, title, (GAP, GAP), size.0 - 2 * GAP, scale);
    for (i, label) in columns.iter().enumerate() {
        write(&mut sheet, label, (left + column * i as u32, 2 * GAP + line), column - GAP, scale);
    }
    for (i, label) in rows.iter().enumerate() {
        let y = top + (height + GAP) * i as u32 + (height - line.min(height)) / 2;
        write(&mut sheet, label, (GAP, y), left - 2 * GAP, scale);
    }
    for (i, image) in images.iter().enumerate() {
        let filter = if image.width() < width { FilterType::Nearest } else { FilterType::Triangle };
        let cell = imageops::resize(image, width, height, filter);
        let (x, y) = (i as u32 % columns.len().max(1) as u32, i as u32 / columns.len().max(1) as u32);
        imageops::replace(&mut sheet, &cell, i64::from(left + column * x), i64::from(top + (height + GAP) * y));
    }
    sheet
}

/// Writes as much of `text` as fits into `width`; what is cut ends in two points.
fn write(sheet: &mut RgbImage, text: &str, (x, y): (u32, u32), width: u32, scale: u32) {
    let fits = (width / (GLYPH * scale)) as usize;
    let mut letters: Vec<char> = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    if letters.len() > fits {
        letters.truncate(fits.saturating_sub(2));
        letters.extend(['.', '.']);
    }
    for (i, letter) in letters.iter().take(fits).enumerate() {
        let glyph = BASIC_FONTS.get(*letter).or_else(|| LATIN_FONTS.get(*letter)).or_else(|| BASIC_FONTS.get('?'));
        for (row, bits) in glyph.into_iter().flatten().enumerate() {
            for bit in (0..GLYPH).filter(|bit| bits >> bit & 1 == 1) {
                let (left, top) = (x + (i as u32 * GLYPH + bit) * scale, y + row as u32 * scale);
                for (dx, dy) in (0..scale).flat_map(|dx| (0..scale).map(move |dy| (dx, dy))) {
                    if left + dx < sheet.width() && top + dy < sheet.height() {
                        sheet.put_pixel(left + dx, top + dy, INK);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_and_label_is_on_the_sheet() {
        let shade = |n: u8| RgbImage::from_pixel(32, 32, Rgb([n, 0, 200]));
        let images: Vec<RgbImage> = (0..6).map(|n| shade(n * 40)).collect();
        let labels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let drawn = sheet("a cat", &labels(&["a", "b", "c"]), &labels(&["x", "a longer label"]), &images);
        for image in &images {
            let color = image.get_pixel(0, 0);
            let area = drawn.pixels().filter(|pixel| *pixel == color).count();
            assert_eq!(area, 128 * 128, "{color:?}");
        }
        let ink = |drawn: &RgbImage| drawn.pixels().filter(|pixel| **pixel == INK).count();
        let bare = sheet("", &labels(&["", "", ""]), &labels(&["", ""]), &images);
        assert_eq!(ink(&bare), 0);
        assert!(ink(&drawn) > 100);
        // One row needs no labels; letters that the font lacks are question marks.
        let one = sheet("三", &labels(&["1", "2", "3"]), &[], &images[..3]);
        assert!(one.height() < drawn.height() && ink(&one) > 0);
    }
}
