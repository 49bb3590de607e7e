//! The contact sheet: the reference, and every candidate of every round; the best has a frame.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

/// Pixels of the longer side of a cell.
const CELL: u32 = 192;
const GAP: u32 = 6;
const PAPER: Rgb<u8> = Rgb([255; 3]);
const FRAME: Rgb<u8> = Rgb([220, 30, 30]);

/// A row a round, the reference before the first. `best`: round and candidate.
pub fn sheet(reference: &RgbImage, rounds: &[Vec<RgbImage>], best: (usize, usize)) -> RgbImage {
    let most = rounds.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let step = CELL + 2 * GAP;
    let mut sheet = RgbImage::from_pixel(step * (most + 1), step * rounds.len().max(1) as u32, PAPER);
    let mut put = |image: &RgbImage, column: u32, row: u32, framed: bool| {
        let (x, y) = (column * step, row * step);
        if framed {
            for (dy, dx) in (0..step).flat_map(|dy| (0..step).map(move |dx| (dy, dx))) {
                sheet.put_pixel(x + dx, y + dy, FRAME);
            }
        }
        let longer = image.width().max(image.height()).max(1);
        let side = |length: u32| (length * CELL / longer).max(1);
        let (width, height) = (side(image.width()), side(image.height()));
        let cell = imageops::resize(image, width, height, FilterType::Triangle);
        let (dx, dy) = (GAP + (CELL - width) / 2, GAP + (CELL - height) / 2);
        imageops::replace(&mut sheet, &cell, i64::from(x + dx), i64::from(y + dy));
    };
    put(reference, 0, 0, false);
    for (row, candidates) in rounds.iter().enumerate() {
        for (column, image) in candidates.iter().enumerate() {
            put(image, column as u32 + 1, row as u32, (row, column) == best);
        }
    }
    sheet
}
