//! Pillow's bicubic resizing of 8-bit images, bit for bit: the rows first, rounded to 8 bits, then the columns, with
//! weights in 22-bit fixed point. Source: Pillow 11.3, src/libImaging/Resample.c and Convert.c.

use image::RgbImage;
use rayon::prelude::*;

/// Interleaved 8-bit channels.
#[derive(Clone)]
pub struct Bytes {
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    /// `height * width * channels`.
    pub data: Vec<u8>,
}

/// The input pixels `first ..` that make an output pixel, and their weights, of sum 1.
pub struct Taps {
    pub first: usize,
    pub weights: Vec<f64>,
}

/// Bits after the point of a weight.
const PRECISION: u32 = 32 - 8 - 2;

/// The cubic of Keys 1981 with a = -0.5, widened by the scale when it shrinks.
pub fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widened = scale.max(1.0);
    let support = 2.0 * widened;
    let tap = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        // The casts cut towards zero, and negative numbers to zero.
        let first = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weight = |j: usize| cubic((j as f64 - centre + 0.5) * (1.0 / widened), -0.5);
        let mut weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        if sum != 0.0 {
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        Taps { first, weights }
    };
    (0..to).map(tap).collect()
}

/// Keys' kernel.
pub fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    match x {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

/// `resize((width, height), BICUBIC)` of modes L and RGB.
pub fn resize(image: &Bytes, width: usize, height: usize) -> Bytes {
    let wide = if width == image.width { image.clone() } else { rows(image, width) };
    if height == wide.height { wide } else { columns(&wide, height) }
}

/// The same of an RGB image.
pub fn resize_rgb(image: &RgbImage, width: usize, height: usize) -> RgbImage {
    let (w, h) = (image.width() as usize, image.height() as usize);
    let bytes = Bytes { width: w, height: h, channels: 3, data: image.as_raw().clone() };
    let resized = resize(&bytes, width, height);
    RgbImage::from_raw(width as u32, height as u32, resized.data).expect("three bytes a pixel")
}

/// The same of mode RGBA: colours are premultiplied, resized, and divided again.
pub fn resize_with_alpha(image: &Bytes, width: usize, height: usize) -> Bytes {
    let mut premultiplied = image.clone();
    for pixel in premultiplied.data.chunks_exact_mut(4) {
        let alpha = u32::from(pixel[3]);
        for c in &mut pixel[..3] {
            let product = u32::from(*c) * alpha + 128;
            *c = (((product >> 8) + product) >> 8) as u8;
        }
    }
    let mut resized = resize(&premultiplied, width, height);
    for pixel in resized.data.chunks_exact_mut(4) {
        let alpha = u32::from(pixel[3]);
        if alpha != 0 && alpha != 255 {
            pixel[..3].iter_mut().for_each(|c| *c = (255 * u32::from(*c) / alpha).min(255) as u8);
        }
    }
    resized
}

/// `resize((width, height), NEAREST)`.
pub fn nearest(image: &Bytes, width: usize, height: usize) -> Bytes {
    let channels = image.channels;
    let at = |i: usize, from: usize, to: usize| (((i as f64 + 0.5) * (from as f64 / to as f64)) as usize).min(from - 1);
    let mut data = Vec::with_capacity(width * height * channels);
    for y in 0..height {
        let row = at(y, image.height, height) * image.width;
        for x in 0..width {
            let from = (row + at(x, image.width, width)) * channels;
            data.extend_from_slice(&image.data[from..from + channels]);
        }
    }
    Bytes { width, height, channels, data }
}

fn fixed(weights: &[f64]) -> Vec<i32> {
    let one = f64::from(1u32 << PRECISION);
    weights.iter().map(|w| (w * one + 0.5f64.copysign(*w)) as i32).collect()
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn rows(image: &Bytes, width: usize) -> Bytes {
    let channels = image.channels;
    let taps: Vec<_> = taps(image.width, width).into_iter().map(|t| (t.first, fixed(&t.weights))).collect();
    let mut data = vec![0u8; image.height * width * channels];
    let lines = image.data.par_chunks_exact(image.width * channels);
    data.par_chunks_exact_mut(width * channels).zip(lines).for_each(|(to, from)| {
        for (pixel, (first, weights)) in to.chunks_exact_mut(channels).zip(&taps) {
            for (c, value) in pixel.iter_mut().enumerate() {
                let inputs = from[first * channels + c..].iter().step_by(channels);
                let sum = weights.iter().zip(inputs).fold(1 << (PRECISION - 1), |sum, (w, &v)| sum + w * i32::from(v));
                *value = clip(sum);
            }
        }
    });
    Bytes { width, height: image.height, channels, data }
}

fn columns(image: &Bytes, height: usize) -> Bytes {
    let line = image.width * image.channels;
    let taps: Vec<_> = taps(image.height, height).into_iter().map(|t| (t.first, fixed(&t.weights))).collect();
    let mut data = vec![0u8; height * line];
    data.par_chunks_exact_mut(line).zip(&taps).for_each(|(to, (first, weights))| {
        let mut sums = vec![1i32 << (PRECISION - 1); line];
        for (w, from) in weights.iter().zip(image.data[first * line..].chunks_exact(line)) {
            sums.iter_mut().zip(from).for_each(|(sum, &v)| *sum += w * i32::from(v));
        }
        to.iter_mut().zip(sums).for_each(|(to, sum)| *to = clip(sum));
    });
    Bytes { height, data, ..*image }
}
