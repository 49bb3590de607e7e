//! An image as numbers, and its background: the plane `a + b x + c y` of each channel that most pixels lie on.

use image::RgbImage;

use super::colour::nearest;
use crate::shapes::description::Colour;
use crate::shapes::render::SIDE;

pub(super) const WIDTH: usize = SIDE as usize;
pub(super) const PIXELS: usize = WIDTH * WIDTH;

pub(super) type Rgb = [f32; 3];

/// 64x64 colours, row by row.
pub(super) fn pixels(image: &RgbImage) -> Vec<Rgb> {
    let resized;
    let image = match image.dimensions() {
        (SIDE, SIDE) => image,
        _ => {
            resized = image::imageops::resize(image, SIDE, SIDE, image::imageops::FilterType::Triangle);
            &resized
        }
    };
    image.pixels().map(|pixel| pixel.0.map(f32::from)).collect()
}

pub(super) fn distance(a: Rgb, b: Rgb) -> f32 {
    let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
    squares.sum::<f32>().sqrt()
}

/// The pixels above, below, left and right of pixel `i` that exist.
pub(super) fn neighbours(i: usize) -> impl Iterator<Item = usize> {
    let (x, y) = (i % WIDTH, i / WIDTH);
    let each = [
        (y > 0).then(|| i - WIDTH),
        (y + 1 < WIDTH).then(|| i + WIDTH),
        (x > 0).then(|| i - 1),
        (x + 1 < WIDTH).then(|| i + 1),
    ];
    each.into_iter().flatten()
}

/// Each pixel's mean with its eight neighbours, weights 1 2 1 in both directions: noise falls to 3/8, while the middle of
/// the smallest shape stays what it is.
pub(super) fn smooth(pixels: &[Rgb]) -> Vec<Rgb> {
    let pass = |source: &[Rgb], step: usize, position: fn(usize) -> usize| -> Vec<Rgb> {
        let one = |i: usize| {
            let before = source[if position(i) == 0 { i } else { i - step }];
            let after = source[if position(i) + 1 == WIDTH { i } else { i + step }];
            std::array::from_fn(|c| 0.25 * (before[c] + after[c]) + 0.5 * source[i][c])
        };
        (0..PIXELS).map(one).collect()
    };
    pass(&pass(pixels, 1, |i| i % WIDTH), WIDTH, |i| i / WIDTH)
}

/// The background of an image.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    /// Per channel: the value in the centre, and the change from the left and from the upper edge to the opposite one.
    channels: [[f32; 3]; 3],
}

impl Plane {
    /// The plane that most pixels lie on, of those that start from the border's median and from each colour that is
    /// common.
    pub fn fit(pixels: &[Rgb]) -> Plane {
        let border: Vec<usize> = (0..PIXELS).filter(|&i| is_border(i)).collect();
        let median = std::array::from_fn(|c| {
            let mut values: Vec<f32> = border.iter().map(|&i| pixels[i][c]).collect();
            values.sort_by(f32::total_cmp);
            values[values.len() / 2]
        });
        let planes = std::iter::once(median).chain(common(pixels)).map(|start| Plane::from(start, pixels));
        let count = |plane: &Plane| plane.near(pixels, 25.0).len();
        // Of equal ones the first, which starts from the border.
        let best = planes.map(|plane| (count(&plane), plane)).reduce(|a, b| if b.0 > a.0 { b } else { a });
        best.expect("the median is always tried").1
    }

    /// Fits all that is near, again and again. The first radius takes in both sides of a shaded background, the last one
    /// leaves out the edges of things.
    fn from(start: Rgb, pixels: &[Rgb]) -> Plane {
        let mut plane = Plane { channels: start.map(|v| [v, 0.0, 0.0]) };
        for radius in [70.0, 40.0, 30.0, 25.0] {
            if let Some(channels) = least_squares(pixels, &plane.near(pixels, radius)) {
                plane = Plane { channels };
            }
        }
        plane
    }

    fn near(&self, pixels: &[Rgb], radius: f32) -> Vec<usize> {
        (0..PIXELS).filter(|&i| distance(pixels[i], self.at(i)) < radius).collect()
    }

    /// The background behind pixel `i`.
    pub fn at(&self, i: usize) -> Rgb {
        let [x, y] = position(i);
        self.channels.map(|[a, b, c]| a + b * x + c * y)
    }

    /// The colour in the centre, which is the mean.
    pub fn mean(&self) -> Rgb {
        self.channels.map(|[a, ..]| a)
    }

    /// How much the brightness differs between two sides of the image, whichever two differ most.
    pub fn slope(&self) -> f32 {
        let mean = |k: usize| self.channels.iter().map(|channel| channel[k]).sum::<f32>() / 3.0;
        mean(1).abs().max(mean(2).abs())
    }
}

/// The mean of each named colour that a sixth of the image or more is nearest to.
fn common(pixels: &[Rgb]) -> Vec<Rgb> {
    let mut sums = [([0.0f32; 3], 0usize); Colour::ALL.len()];
    for &pixel in pixels {
        let (sum, count) = &mut sums[nearest(pixel) as usize];
        *count += 1;
        for (sum, v) in sum.iter_mut().zip(pixel) {
            *sum += v;
        }
    }
    let common = sums.iter().filter(|(_, count)| count * 6 >= PIXELS);
    common.map(|(sum, count)| sum.map(|v| v / *count as f32)).collect()
}

fn is_border(i: usize) -> bool {
    let edge = |v: usize| !(2..WIDTH - 2).contains(&v);
    edge(i % WIDTH) || edge(i / WIDTH)
}

/// From -1/2 to 1/2.
fn position(i: usize) -> [f32; 2] {
    [i % WIDTH, i / WIDTH].map(|v| (v as f32 + 0.5) / WIDTH as f32 - 0.5)
}

/// The plane of each channel through the pixels `of`; `None` where too few are left or all lie on one line.
fn least_squares(pixels: &[Rgb], of: &[usize]) -> Option<[[f32; 3]; 3]> {
    let mut normal = [[0.0f64; 3]; 3];
    let mut right = [[0.0f64; 3]; 3];
    for &i in of {
        let [x, y] = position(i).map(f64::from);
        let row = [1.0, x, y];
        for (a, &left) in row.iter().enumerate() {
            for (b, &top) in row.iter().enumerate() {
                normal[a][b] += left * top;
                right[a][b] += left * f64::from(pixels[i][b]);
            }
        }
    }
    let whole = determinant(&normal);
    let enough = of.len() >= 32 && whole > 1e-6 * normal[0][0].powi(3);
    enough.then(|| {
        std::array::from_fn(|channel| {
            std::array::from_fn(|k| {
                let mut replaced = normal;
                for (row, values) in replaced.iter_mut().zip(&right) {
                    row[k] = values[channel];
                }
                (determinant(&replaced) / whole) as f32
            })
        })
    })
}

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}
