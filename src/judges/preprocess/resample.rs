//! Resizing of float images: as PyTorch's `interpolate` with and without antialias, as Pillow's mode F, and as
//! TensorFlow 1. All are separable; they differ in the weights, and in what is rounded between the two passes.

use image::RgbImage;

use super::pillow::{self, Taps};

/// Interleaved RGB floats.
#[derive(Clone)]
pub struct Planes {
    pub width: usize,
    pub height: usize,
    /// `height * width * 3`.
    pub values: Vec<f32>,
}

impl Planes {
    /// The bytes of an image times `scale`.
    pub fn of(image: &RgbImage, scale: f64) -> Self {
        let values = image.as_raw().iter().map(|&v| (f64::from(v) * scale) as f32).collect();
        Self { width: image.width() as usize, height: image.height() as usize, values }
    }

    /// `interpolate(mode="bilinear", align_corners=False, antialias=False)`.
    pub fn bilinear(&self, width: usize, height: usize) -> Self {
        self.by(width, height, |from, to| {
            let scale = from as f64 / to as f64;
            linear(from, to, |i| ((i as f64 + 0.5) * scale - 0.5).max(0.0))
        })
    }

    /// TensorFlow 1's `resize_bilinear`: without the shift by half a pixel, places in f32 as there.
    pub fn bilinear_tf1(&self, width: usize, height: usize) -> Self {
        self.by(width, height, |from, to| {
            let scale = from as f32 / to as f32;
            linear(from, to, |i| f64::from(i as f32 * scale))
        })
    }

    /// `interpolate(mode="bicubic", align_corners=False, antialias=False)`: a = -0.75, four taps, clamped.
    pub fn bicubic(&self, width: usize, height: usize) -> Self {
        self.by(width, height, |from, to| (0..to).map(|i| four_taps(i, from, to)).collect())
    }

    /// The same with `antialias=True`: Pillow's weights, nothing rounded or clipped.
    pub fn bicubic_antialias(&self, width: usize, height: usize) -> Self {
        self.by(width, height, pillow::taps)
    }

    /// Pillow's BICUBIC of mode F, which keeps f32 between the passes.
    pub fn pillow_bicubic(&self, width: usize, height: usize) -> Self {
        self.bicubic_antialias(width, height)
    }

    /// In a black square.
    pub fn padded(&self, size: usize, left: usize, top: usize) -> Self {
        let mut values = vec![0.0; size * size * 3];
        for (y, row) in self.values.chunks_exact(self.width * 3).enumerate() {
            values[((top + y) * size + left) * 3..][..row.len()].copy_from_slice(row);
        }
        Self { width: size, height: size, values }
    }

    fn by(&self, width: usize, height: usize, taps: impl Fn(usize, usize) -> Vec<Taps>) -> Self {
        let (across, down) = (taps(self.width, width), taps(self.height, height));
        let mut wide = Vec::with_capacity(self.height * width * 3);
        for row in self.values.chunks_exact(self.width * 3) {
            for tap in &across {
                for c in 0..3 {
                    let inputs = row[tap.first * 3 + c..].iter().step_by(3);
                    let sum: f64 = tap.weights.iter().zip(inputs).map(|(w, &v)| w * f64::from(v)).sum();
                    wide.push(sum as f32);
                }
            }
        }
        let line = width * 3;
        let mut values = Vec::with_capacity(height * line);
        for tap in &down {
            let mut sums = vec![0.0f64; line];
            for (w, from) in tap.weights.iter().zip(wide[tap.first * line..].chunks_exact(line)) {
                sums.iter_mut().zip(from).for_each(|(sum, &v)| *sum += w * f64::from(v));
            }
            values.extend(sums.into_iter().map(|sum| sum as f32));
        }
        Self { width, height, values }
    }
}

/// Between the two nearest pixels of where output `i` comes from.
fn linear(from: usize, to: usize, source: impl Fn(usize) -> f64) -> Vec<Taps> {
    let tap = |i| {
        let at: f64 = source(i);
        let first = (at as usize).min(from - 1);
        let share = at - first as f64;
        match first + 1 < from {
            true => Taps { first, weights: vec![1.0 - share, share] },
            false => Taps { first, weights: vec![1.0] },
        }
    };
    (0..to).map(tap).collect()
}

/// Weights of pixels beyond the edge go to the edge.
fn four_taps(i: usize, from: usize, to: usize) -> Taps {
    let at = (i as f64 + 0.5) * (from as f64 / to as f64) - 0.5;
    let floor = at.floor();
    let pixel = |k: i64| (floor as i64 + k).clamp(0, from as i64 - 1) as usize;
    let first = pixel(-1);
    let mut weights = vec![0.0; pixel(2) - first + 1];
    for k in -1..=2 {
        weights[pixel(k) - first] += pillow::cubic(at - floor - k as f64, -0.75);
    }
    Taps { first, weights }
}
