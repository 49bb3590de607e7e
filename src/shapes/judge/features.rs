//! Numbers that tell shapes apart, from a soft mask: none depends on place or size.

use super::background::WIDTH;

/// What [`super::classify`] compares. With `u`, `v` the distances from the centroid to the right and down in units of
/// the square root of the area, and means over the area:
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Features {
    /// The area's share of the bounding box.
    pub extent: f32,
    /// Circularity: mean of `u^2 + v^2`, smallest for a disc.
    pub spread: f32,
    /// How far single points reach: mean of `(u^2 + v^2)^2`.
    pub reach: f32,
    /// Elongation: mean of `u^2 - v^2`.
    pub wide: f32,
    /// Three, four and five corners: mean of `(u + i v)^k`, the part that an upright shape has.
    pub corners: [f32; 3],
    /// Symmetry of left and right: the part of the same that an upright shape does not have, and mean of `u (u^2 + v^2)`.
    pub lopsided: f32,
}

/// Where a region is, and how large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extents {
    /// The centroid, in pixels.
    pub x: f32,
    pub y: f32,
    /// Of the bounding box, in pixels.
    pub width: f32,
    pub height: f32,
    /// The centre of the bounding box.
    pub middle: [f32; 2],
    pub area: f32,
}

pub(super) fn measure(mask: &[f32]) -> (Extents, Features) {
    let covered = || mask.iter().enumerate().filter(|(_, share)| **share > 0.0);
    let at = |i: usize| [(i % WIDTH) as f32 + 0.5, (i / WIDTH) as f32 + 0.5];
    let [mut area, mut x, mut y] = [0.0f32; 3];
    for (i, share) in covered() {
        area += share;
        x += share * at(i)[0];
        y += share * at(i)[1];
    }
    let (x, y) = (x / area, y / area);
    let [left, right] = span(|column| (0..WIDTH).map(|row| mask[row * WIDTH + column]).fold(0.0, f32::max));
    let [top, bottom] = span(|row| mask[row * WIDTH..][..WIDTH].iter().copied().fold(0.0, f32::max));
    let unit = 1.0 / area.sqrt();
    let mut f = Features {
        extent: area / ((right - left) * (bottom - top)),
        spread: 0.0,
        reach: 0.0,
        wide: 0.0,
        corners: [0.0; 3],
        lopsided: 0.0,
    };
    let mut odd = [0.0f32; 4];
    for (i, share) in covered() {
        let (u, v) = ((at(i)[0] - x) * unit, (at(i)[1] - y) * unit);
        let (share, square) = (share / area, u * u + v * v);
        let power = |[re, im]: [f32; 2]| [re * u - im * v, re * v + im * u];
        let second = power([u, v]);
        let third = power(second);
        let fourth = power(third);
        let fifth = power(fourth);
        f.spread += share * square;
        f.reach += share * square * square;
        f.wide += share * second[0];
        for (sum, value) in f.corners.iter_mut().zip([third[1], fourth[0], fifth[1]]) {
            *sum += share * value;
        }
        for (sum, value) in odd.iter_mut().zip([third[0], fourth[1], fifth[0], u * square]) {
            *sum += share * value;
        }
    }
    f.lopsided = odd.iter().map(|v| v.abs()).sum();
    let extents = Extents {
        x,
        y,
        width: right - left,
        height: bottom - top,
        middle: [(left + right) / 2.0, (top + bottom) / 2.0],
        area,
    };
    (extents, f)
}

/// Where a profile rises above one half and where it falls below again, between pixels.
fn span(profile: impl Fn(usize) -> f32) -> [f32; 2] {
    let first = (0..WIDTH).find(|&i| profile(i) >= 0.5).unwrap_or(0);
    let last = (0..WIDTH).rfind(|&i| profile(i) >= 0.5).unwrap_or(WIDTH - 1);
    // A pixel that is covered to one half ends in its middle; the next one out may be covered a little as well.
    let before = if first == 0 { 0.0 } else { profile(first - 1) };
    let after = if last + 1 == WIDTH { 0.0 } else { profile(last + 1) };
    [first as f32 + 1.0 - profile(first) - before, last as f32 + profile(last) + after]
}

impl Features {
    /// All of them, in the order of [`super::classify`]'s table.
    pub fn values(&self) -> [f32; 8] {
        let [three, four, five] = self.corners;
        [self.extent, self.spread, self.reach, self.wide, three, four, five, self.lopsided]
    }
}
