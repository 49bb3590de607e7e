//! Images made worse, as cameras, codecs and generative models make them.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use image::{ImageFormat, Rgb, RgbImage};
use selma::shapes::SIDE;
use selma::tensor::random::{Stream, normals};

/// What a degradation is called, how many images of each skill it is measured on, and what it does to image `index`.
pub type Condition = (&'static str, u64, fn(RgbImage, u64) -> RgbImage);

pub const CONDITIONS: [Condition; 7] = [
    ("as rendered", 300, |image, _| image),
    ("noise of standard deviation 8", 80, |image, index| noisy(image, 8.0, index)),
    ("blur of standard deviation 1 pixel, noise 6", 80, |image, index| noisy(blurred(blurred(image)), 6.0, index)),
    ("blur, half the resolution and back, noise 4", 80, |image, index| noisy(halved(blurred(image)), 4.0, index)),
    ("JPEG of quality 40", 80, |image, _| compressed(image)),
    ("colours off by 10, blotches of 6, outlines by 0.5 pixels", 80, |image, index| {
        stained(warped(image, 0.5, index), 10.0, 6.0, index)
    }),
    (
        "half the resolution and back, noise 4, colours off by 10, blotches of 6, outlines by 0.5 pixels",
        80,
        |image, index| {
            let drawn = stained(warped(image, 0.5, index), 10.0, 6.0, index);
            noisy(halved(drawn), 4.0, index)
        },
    ),
];

const SEED: u64 = 7;

fn pixel(image: &RgbImage, x: i32, y: i32) -> [f32; 3] {
    let inside = |v: i32| v.clamp(0, SIDE as i32 - 1) as u32;
    image.get_pixel(inside(x), inside(y)).0.map(f32::from)
}

fn rounded(value: [f32; 3]) -> Rgb<u8> {
    Rgb(value.map(|v| v.round().clamp(0.0, 255.0) as u8))
}

/// Weights 1 2 1 in both directions: a variance of half a pixel.
fn blurred(image: RgbImage) -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let mut sum = [0.0f32; 3];
        for (dx, dy) in (-1..=1).flat_map(|dx| (-1..=1).map(move |dy| (dx, dy))) {
            let weight = ((2 - i32::abs(dx)) * (2 - i32::abs(dy))) as f32 / 16.0;
            let near = pixel(&image, x as i32 + dx, y as i32 + dy);
            sum.iter_mut().zip(near).for_each(|(sum, v)| *sum += weight * v);
        }
        rounded(sum)
    })
}

/// What an autoencoder that halves the resolution keeps at best.
fn halved(image: RgbImage) -> RgbImage {
    let half = resize(&image, SIDE / 2, SIDE / 2, FilterType::Triangle);
    resize(&half, SIDE, SIDE, FilterType::CatmullRom)
}

fn noisy(mut image: RgbImage, deviation: f32, index: u64) -> RgbImage {
    let noise = normals(SEED, Stream::Noise, index, 0, image.len());
    for (value, noise) in image.iter_mut().zip(noise) {
        *value = (f32::from(*value) + deviation * noise).round().clamp(0.0, 255.0) as u8;
    }
    image
}

fn compressed(image: RgbImage) -> RgbImage {
    let mut file = Vec::new();
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut file, 40)).unwrap();
    image::load(Cursor::new(file), ImageFormat::Jpeg).unwrap().to_rgb8()
}

/// A smooth field of `N` values a pixel, of standard deviation 1 at knots every `spacing` pixels.
fn field<const N: usize>(spacing: u32, purpose: u64, index: u64) -> impl Fn(u32, u32) -> [f32; N] {
    let knots = (SIDE / spacing + 2) as usize;
    let values = normals(SEED, Stream::Shapes, index, purpose, knots * knots * N);
    move |x, y| {
        let at = |v: u32| (v / spacing, (v % spacing) as f32 / spacing as f32);
        let ((column, right), (row, down)) = (at(x), at(y));
        std::array::from_fn(|k| {
            let knot = |dx: usize, dy: usize| values[((row as usize + dy) * knots + column as usize + dx) * N + k];
            let upper = knot(0, 0) + right * (knot(1, 0) - knot(0, 0));
            let lower = knot(0, 1) + right * (knot(1, 1) - knot(0, 1));
            upper + down * (lower - upper)
        })
    }
}

/// Outlines that waver, by `amount` pixels, from one spot to another eight pixels away.
fn warped(image: RgbImage, amount: f32, index: u64) -> RgbImage {
    let shift = field::<2>(8, 1, index);
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let [dx, dy] = shift(x, y).map(|v| amount * v);
        let (x, y) = (x as f32 + dx, y as f32 + dy);
        let (left, top) = (x.floor(), y.floor());
        let corner = |dx: i32, dy: i32| pixel(&image, left as i32 + dx, top as i32 + dy);
        let [a, b, c, d] = [corner(0, 0), corner(1, 0), corner(0, 1), corner(1, 1)];
        rounded(std::array::from_fn(|k| {
            let upper = a[k] + (x - left) * (b[k] - a[k]);
            let lower = c[k] + (x - left) * (d[k] - c[k]);
            upper + (y - top) * (lower - upper)
        }))
    })
}

/// Each channel off by about `shift` in the whole image, and by about `blotches` from one spot to another.
fn stained(image: RgbImage, shift: f32, blotches: f32, index: u64) -> RgbImage {
    let whole = normals(SEED, Stream::Shapes, index, 2, 3);
    let blotch = field::<3>(16, 3, index);
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (value, spot) = (pixel(&image, x as i32, y as i32), blotch(x, y));
        rounded(std::array::from_fn(|k| value[k] + shift * whole[k] + blotches * spot[k]))
    })
}
