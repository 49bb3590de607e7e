//! One image against another, without a network. SSIM: Wang et al. 2004, IEEE TIP 13(4).

use image::RgbImage;
use serde::Serialize;

use crate::judges::preprocess::pillow;

/// Side of SSIM's window.
const WINDOW: usize = 11;
const WINDOW_SIGMA: f64 = 1.5;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Similarity {
    /// Of luma; `None` where a side is below 11 pixels.
    pub ssim_luma: Option<f64>,
    /// The mean of the three channels'.
    pub ssim_rgb: Option<f64>,
    /// In decibels; `None` for equal images, whose ratio is infinite.
    pub psnr: Option<f64>,
    /// Mean absolute difference, 0 to 1.
    pub mae: f64,
    /// Overlap of histograms with 8 x 8 x 8 bins, 0 to 1.
    pub histogram_intersection: f64,
    pub identical: bool,
}

/// `candidate` is resized to the size of `reference` with Pillow's bicubic, if it has another.
pub fn similarity(reference: &RgbImage, candidate: &RgbImage) -> Similarity {
    let (w, h) = (reference.width() as usize, reference.height() as usize);
    let resized;
    let candidate = if candidate.dimensions() == reference.dimensions() {
        candidate
    } else {
        resized = pillow::resize_rgb(candidate, w, h);
        &resized
    };
    let (a, b) = (reference.as_raw(), candidate.as_raw());
    let differences = || a.iter().zip(b).map(|(&a, &b)| i64::from(a) - i64::from(b));
    let mse = differences().map(|d| d * d).sum::<i64>() as f64 / a.len() as f64;
    let mae = differences().map(i64::abs).sum::<i64>() as f64 / a.len() as f64 / 255.0;
    let window = w >= WINDOW && h >= WINDOW;
    let channel =
        |image: &RgbImage, c: usize| image.as_raw().iter().skip(c).step_by(3).map(|&v| f64::from(v)).collect();
    let ssim = |a: Vec<f64>, b: Vec<f64>| ssim(&a, &b, w, h);
    Similarity {
        ssim_luma: window.then(|| ssim(luma(reference), luma(candidate))),
        ssim_rgb: window.then(|| (0..3).map(|c| ssim(channel(reference, c), channel(candidate, c))).sum::<f64>() / 3.0),
        psnr: (mse > 0.0).then(|| 10.0 * (255.0 * 255.0 / mse).log10()),
        mae,
        histogram_intersection: histogram(reference).iter().zip(histogram(candidate)).map(|(a, b)| a.min(b)).sum(),
        identical: mse == 0.0,
    }
}

/// Pillow's `convert("L")`.
fn luma(image: &RgbImage) -> Vec<f64> {
    let luma = |p: &image::Rgb<u8>| {
        let [r, g, b] = p.0.map(u32::from);
        f64::from((19_595 * r + 38_470 * g + 7471 * b + 32_768) >> 16)
    };
    image.pixels().map(luma).collect()
}

/// Shares of the 512 bins.
fn histogram(image: &RgbImage) -> Vec<f64> {
    let mut bins = vec![0u32; 512];
    for pixel in image.pixels() {
        let [r, g, b] = pixel.0.map(|v| usize::from(v >> 5));
        bins[(r << 3 | g) << 3 | b] += 1;
    }
    let pixels = f64::from(image.width()) * f64::from(image.height());
    bins.into_iter().map(|n| f64::from(n) / pixels).collect()
}

/// The mean over all places where the window fits; variances by the population formula.
fn ssim(a: &[f64], b: &[f64], w: usize, h: usize) -> f64 {
    const C1: f64 = 0.01 * 255.0 * 0.01 * 255.0;
    const C2: f64 = 0.03 * 255.0 * 0.03 * 255.0;
    let product = |x: &[f64], y: &[f64]| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x * y).collect() };
    let mean_a = blurred(a, w, h);
    let mean_b = blurred(b, w, h);
    let (aa, bb, ab) = (product(a, a), product(b, b), product(a, b));
    let (aa, bb, ab) = (blurred(&aa, w, h), blurred(&bb, w, h), blurred(&ab, w, h));
    let at = |i: usize| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (va, vb, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
        (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    };
    (0..mean_a.len()).map(at).sum::<f64>() / mean_a.len() as f64
}

/// Convolved with the Gaussian window, `[h - 10, w - 10]`.
fn blurred(x: &[f64], w: usize, h: usize) -> Vec<f64> {
    let weight = |i: usize| (-((i as f64 - 5.0) / WINDOW_SIGMA).powi(2) / 2.0).exp();
    let sum: f64 = (0..WINDOW).map(weight).sum();
    let weights: [f64; WINDOW] = std::array::from_fn(|i| weight(i) / sum);
    let narrow = w - WINDOW + 1;
    let across: Vec<f64> = x
        .chunks_exact(w)
        .flat_map(|row| row.windows(WINDOW).map(|part| part.iter().zip(&weights).map(|(x, g)| x * g).sum::<f64>()))
        .collect();
    let at = |i: usize| (0..WINDOW).map(|k| weights[k] * across[i + k * narrow]).sum();
    (0..(h - WINDOW + 1) * narrow).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_grey_images() {
        let grey = |v: u8| RgbImage::from_pixel(16, 12, image::Rgb([v; 3]));
        let both = similarity(&grey(100), &grey(110));
        let close = |a: Option<f64>, b: f64| assert!((a.unwrap() - b).abs() < 1e-6, "{a:?} {b}");
        close(both.ssim_luma, 0.995_476_4);
        close(both.ssim_rgb, 0.995_476_4);
        close(both.psnr, 28.130_803_6);
        close(Some(both.mae), 10.0 / 255.0);
        let same = similarity(&grey(7), &grey(7));
        assert_eq!((same.psnr, same.ssim_luma, same.identical), (None, Some(1.0), true));
    }
}
