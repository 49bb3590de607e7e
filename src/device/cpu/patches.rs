//! The patches of an image under a convolution's kernel ("im2col"), gathered a block at a time as operands of a matrix
//! product.

use std::ops::Range;

use super::gemm::{Operand, Packer};
use crate::tensor::Real;

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

    /// Some channels of the source pixel of a patch under a tap, if that is not outside.
    fn channels(&self, patch: usize, tap: usize, channels: Range<usize>) -> Option<&[T]> {
        let [height, width, all_channels] = self.size;
        let [_, rows, columns] = self.pixels;
        let (image, y, x) = (patch / columns / rows, patch / columns % rows, patch % columns);
        let y = (y * self.step + tap / self.kernel[1]) as isize + self.offset[0];
        let x = (x * self.step + tap % self.kernel[1]) as isize + self.offset[1];
        if !(0..height as isize).contains(&y) || !(0..width as isize).contains(&x) {
            return None;
        }
        let pixel = (image * height + y as usize) * width + x as usize;
        Some(&self.data[pixel * all_channels..][channels])
    }
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
            to.lines(start..end, every, |i| {
                self.channels(lines.start + i, tap, channels.clone())
            });
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
        for (k, patch) in depth.enumerate() {
            let mut first = lines.start;
            while first < lines.end {
                let (tap, channel) = (first / all_channels, first % all_channels);
                let count = (all_channels - channel).min(lines.end - first);
                let run = self.0.channels(patch, tap, channel..channel + count);
                to.part(k, first - lines.start, run, count);
                first += count;
            }
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
