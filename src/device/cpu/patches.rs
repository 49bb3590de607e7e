//! The patches of an image under a convolution's kernel ("im2col"), gathered a block at a time as operands of a matrix
//! product.

use std::ops::Range;

use super::gemm::{Operand, Packer};
use crate::dtype::Real;

/// Patch p belongs to an output pixel (image, y, x); under tap (ky, kx) lies the source pixel `y * step + ky + offset`,
/// zero where that is outside.
pub struct Patches<'a, T> {
    pub data: &'a [T],
    /// Height, width and channels of the source.
    pub size: [usize; 3],
    pub kernel: [usize; 2],
    /// Images, and rows and columns of output pixels in each.
    pub pixels: [usize; 3],
    pub step: usize,
    pub offset: [isize; 2],
    /// The order of the values in a patch.
    pub order: Order,
}

/// The order of the values in a patch, and so of the weights that they meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Kernel height, kernel width, channels.
    TapsFirst,
    /// Channels, kernel height, kernel width.
    ChannelsFirst,
}

impl<T: Real> Patches<'_, T> {
    /// How many patches there are.
    pub fn count(&self) -> usize {
        self.pixels.iter().product()
    }

    /// Values in a patch.
    pub fn values(&self) -> usize {
        self.taps() * self.size[2]
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Where each of some patches begins. Found once for all taps: divisions would cost more than copying the values.
    fn places(&self, patches: Range<usize>) -> Vec<Place> {
        let [height, width, _] = self.size;
        let [_, rows, columns] = self.pixels;
        let row = patches.start / columns.max(1);
        let (mut image, mut y, mut x) = (row / rows.max(1), row % rows.max(1), patches.start % columns.max(1));
        let mut places = Vec::with_capacity(patches.len());
        for _ in patches {
            places.push(Place {
                image: image * height * width,
                y: (y * self.step) as isize + self.offset[0],
                x: (x * self.step) as isize + self.offset[1],
            });
            x += 1;
            if x == columns {
                (x, y) = (0, y + 1);
            }
            if y == rows {
                (y, image) = (0, image + 1);
            }
        }
        places
    }

    /// All channels of the source pixel of a patch under tap (ky, kx), if that is not outside.
    fn pixel(&self, place: &Place, [ky, kx]: [usize; 2]) -> Option<&[T]> {
        let [height, width, channels] = self.size;
        let (y, x) = (place.y + ky as isize, place.x + kx as isize);
        if !(0..height as isize).contains(&y) || !(0..width as isize).contains(&x) {
            return None;
        }
        let pixel = place.image + y as usize * width + x as usize;
        Some(&self.data[pixel * channels..][..channels])
    }

    /// (ky, kx) of a tap.
    fn tap(&self, tap: usize) -> [usize; 2] {
        [tap / self.kernel[1], tap % self.kernel[1]]
    }
}

/// Where a patch begins: the first pixel of its image, and the coordinates that tap (0, 0) has in it.
struct Place {
    image: usize,
    y: isize,
    x: isize,
}

/// The patches are the lines.
impl<T: Real> Operand<T> for Patches<'_, T> {
    fn lines(&self) -> usize {
        self.count()
    }

    fn depth(&self) -> usize {
        self.values()
    }

    fn pack(&self, lines: Range<usize>, depth: Range<usize>, to: &mut Packer<'_, T>) {
        let (taps, all_channels) = (self.taps(), self.size[2]);
        let places = self.places(lines);
        for tap in 0..taps {
            // The channels whose values under this tap are in the range, the first at `start`.
            let (channels, start, every) = match self.order {
                Order::TapsFirst => {
                    let first = depth.start.max(tap * all_channels);
                    let end = depth.end.min((tap + 1) * all_channels);
                    if first >= end {
                        continue;
                    }
                    let channels = first - tap * all_channels..end - tap * all_channels;
                    (channels, first - depth.start, 1)
                }
                Order::ChannelsFirst => {
                    let channel = |depth: usize| (depth + taps - 1 - tap) / taps;
                    let channels = channel(depth.start)..channel(depth.end);
                    (channels.clone(), channels.start * taps + tap - depth.start, taps)
                }
            };
            if channels.is_empty() {
                continue;
            }
            let end = start + (channels.len() - 1) * every + 1;
            let at = self.tap(tap);
            to.lines(start..end, every, |i| self.pixel(&places[i], at).map(|pixel| &pixel[channels.clone()]));
        }
    }
}

/// The transpose: the values are the lines. In the order [`Order::TapsFirst`].
pub struct Transposed<'a, T>(pub Patches<'a, T>);

impl<T: Real> Operand<T> for Transposed<'_, T> {
    fn lines(&self) -> usize {
        self.0.values()
    }

    fn depth(&self) -> usize {
        self.0.count()
    }

    fn pack(&self, lines: Range<usize>, depth: Range<usize>, to: &mut Packer<'_, T>) {
        let all_channels = self.0.size[2];
        let places = self.0.places(depth);
        let mut first = lines.start;
        while first < lines.end {
            let (tap, channel) = (self.0.tap(first / all_channels), first % all_channels);
            let count = (all_channels - channel).min(lines.end - first);
            for (k, place) in places.iter().enumerate() {
                let pixel = self.0.pixel(place, tap);
                to.part(k, first - lines.start, pixel.map(|pixel| &pixel[channel..]), count);
            }
            first += count;
        }
        to.pad();
    }
}

/// The weights that an input channel meets in the gradient of a convolution with kernel `[c_out, all_taps, c_in]`: in
/// the order output channels, `taps`. So the steps follow each other in memory.
pub struct Taps<'a, T> {
    pub weight: &'a [T],
    pub c_out: usize,
    pub all_taps: usize,
    pub c_in: usize,
    pub taps: Vec<usize>,
}

/// The input channels are the lines.
impl<T: Real> Operand<T> for Taps<'_, T> {
    fn lines(&self) -> usize {
        self.c_in
    }

    fn depth(&self) -> usize {
        self.taps.len() * self.c_out
    }

    fn pack(&self, lines: Range<usize>, depth: Range<usize>, to: &mut Packer<'_, T>) {
        let count = self.taps.len();
        to.steps(depth.len(), |k| {
            let (c_out, tap) = ((depth.start + k) / count, self.taps[(depth.start + k) % count]);
            &self.weight[(c_out * self.all_taps + tap) * self.c_in..][lines.clone()]
        });
    }
}
