//! A scene's pixels: 64x64 RGB, edges smoothed by 8x8 samples a pixel.

use image::{Rgb, RgbImage};

use super::outline;
use super::scene::{Object, Scene, Shade};

/// Pixels to a side.
pub const SIDE: u32 = 64;
/// Samples to a side of a pixel.
const SAMPLES: u32 = 8;

/// Paints the background, then the objects in their order.
pub fn render(scene: &Scene) -> RgbImage {
    let mut canvas: Vec<[f32; 3]> =
        (0..SIDE * SIDE).map(|i| background(scene, (i % SIDE) as f32 + 0.5, (i / SIDE) as f32 + 0.5)).collect();
    for object in &scene.objects {
        paint(&mut canvas, object);
    }
    let pixel = |x: u32, y: u32| canvas[(y * SIDE + x) as usize];
    RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb(pixel(x, y).map(|v| v.clamp(0.0, 255.0).round_ties_even() as u8)))
}

fn background(scene: &Scene, x: f32, y: f32) -> [f32; 3] {
    let along = |position: f32| position * (2.0 / SIDE as f32) - 1.0;
    let change = match scene.shade {
        None => 0.0,
        Some(Shade { vertical: true, change }) => change * along(y),
        Some(Shade { vertical: false, change }) => change * along(x),
    };
    scene.background.map(|v| v + change)
}

/// Blends one object over the canvas by the share of each pixel that it covers.
fn paint(canvas: &mut [[f32; 3]], object: &Object) {
    let reach = outline::REACH * object.size;
    let first = |centre: f32| (centre - reach).floor().max(0.0) as u32;
    let end = |centre: f32| ((centre + reach).ceil().max(0.0) as u32).min(SIDE);
    for y in first(object.y)..end(object.y) {
        for x in first(object.x)..end(object.x) {
            let share = coverage(object, x, y);
            let pixel = &mut canvas[(y * SIDE + x) as usize];
            for (value, ink) in pixel.iter_mut().zip(object.ink) {
                *value += share * (ink - *value);
            }
        }
    }
}

fn coverage(object: &Object, x: u32, y: u32) -> f32 {
    let at = |pixel: u32, sample: u32, centre: f32| {
        (pixel as f32 + (sample as f32 + 0.5) * (1.0 / SAMPLES as f32) - centre) / object.size
    };
    let hits = (0..SAMPLES * SAMPLES).filter(|i| {
        let (sx, sy) = (i % SAMPLES, i / SAMPLES);
        outline::contains(object.shape, at(x, sx, object.x), at(y, sy, object.y))
    });
    hits.count() as f32 * (1.0 / (SAMPLES * SAMPLES) as f32)
}
