//! Convolution of maps with few channels, without gathering patches: gathering one would cost as much as multiplying it.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Aligned, Gemm, Layout, Packer, Tile, VECTORS};
use crate::device::cpu::pool::buffer;

/// Pixels that one task works on at least, if a map has as many: whole rows.
const PIXELS: usize = 128;
/// Channels beyond which gathering costs little beside multiplying.
const MOST: usize = 128;
/// Values of the taps that are multiplied at a time: a row of the kernel, if it has no more.
const DEPTH: usize = 256;

/// A convolution with step 1: output pixel (image, y, x) is the sum over taps (ky, kx) of source pixel
/// `(y + ky + offset, x + kx + offset)`, zero outside, times the weights of the tap `[c, out]`.
pub struct Convolution<'a, T> {
    /// `[images, height, width, c]`.
    pub data: &'a [T],
    /// Height, width and channels of the source.
    pub size: [usize; 3],
    pub kernel: [usize; 2],
    /// Images, and rows and columns of output pixels in each.
    pub pixels: [usize; 3],
    pub offset: [isize; 2],
    /// Output channels: a multiple of every kernel's vectors.
    pub out: usize,
}

impl<T: Gemm> Convolution<'_, T> {
    /// Whether this is the faster way. (Does not depend on the processor: this way adds in another order.)
    pub fn fits(&self) -> bool {
        const VECTOR: usize = 16;
        let [_, _, c] = self.size;
        let few = |channels: usize| (VECTOR..=MOST).contains(&channels);
        few(c) && few(self.out) && self.out.is_multiple_of(VECTOR) && !self.pixels.contains(&0)
    }

    /// The result plus `bias` `[out]`. `pack` puts the weights of a row of taps, or some of them, into panels whose lines
    /// are the output channels: ky, kx, then channels.
    pub fn run(&self, bias: Option<&[T]>, pack: impl Fn(usize, Range<usize>, &mut Packer<'_, T>) + Sync) -> Vec<T> {
        let kernel = T::kernel();
        let [images, rows, columns] = self.pixels;
        let c = self.size[2];
        let layout = Layout { width: VECTORS * kernel.lanes, round: kernel.lanes };
        let mut weights = Aligned::new(self.kernel[0] * self.kernel[1] * c * self.out);
        let mut rest = weights.get_mut();
        let mut parts = Vec::new();
        for (ky, taps) in self.taps() {
            let part;
            (part, rest) = rest.split_at_mut(taps.len() * c * self.out);
            parts.push((ky, taps, part));
        }
        parts.into_par_iter().for_each(|(ky, taps, to)| {
            let steps = taps.len() * c;
            pack(ky, taps, &mut Packer::new(kernel, to, layout, self.out, steps));
        });
        let mut y = buffer::<T>(images * rows * columns * self.out);
        let rows_of_task = PIXELS.div_ceil(columns).min(rows);
        y.par_chunks_mut(rows * columns * self.out).enumerate().for_each(|(image, y)| {
            let tasks = y.par_chunks_mut(rows_of_task * columns * self.out).enumerate();
            tasks.for_each(|(task, y)| {
                let source = self.padded_rows(image, task * rows_of_task, y.len() / columns / self.out);
                self.rows(source.get(), weights.get(), y, bias);
            });
        });
        y
    }

    /// The taps that are multiplied at a time: ky, and some kx.
    fn taps(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<T> {
        let [height, width] = self.kernel;
        let count = if width * self.size[2] <= DEPTH { width } else { 1 };
        (0..height).flat_map(move |ky| (0..width).step_by(count).map(move |kx| (ky, kx..width.min(kx + count))))
    }

    /// Columns of the source that a row of output pixels meets.
    fn padded_columns(&self) -> usize {
        self.pixels[2] + self.kernel[1] - 1
    }

    /// The rows of the source that `rows` rows of output pixels from `first` on meet, with the zeros around it.
    fn padded_rows(&self, image: usize, first: usize, rows: usize) -> Aligned<T> {
        let [height, width, c] = self.size;
        let columns = self.padded_columns();
        let mut padded = Aligned::new((rows + self.kernel[0] - 1) * columns * c);
        // Of the columns: zeros, then source columns `from..to`, then zeros.
        let left = (-self.offset[1]).clamp(0, columns as isize) as usize;
        let from = self.offset[1].clamp(0, width as isize) as usize;
        let to = (columns as isize + self.offset[1]).clamp(from as isize, width as isize) as usize;
        for (i, row) in padded.get_mut().chunks_exact_mut(columns * c).enumerate() {
            let y = (first + i) as isize + self.offset[0];
            if (0..height as isize).contains(&y) {
                let source = &self.data[(image * height + y as usize) * width * c..][from * c..to * c];
                let (before, rest) = row.split_at_mut(left * c);
                let (inside, after) = rest.split_at_mut(source.len());
                before.fill(T::default());
                inside.copy_from_slice(source);
                after.fill(T::default());
            } else {
                row.fill(T::default());
            }
        }
        padded
    }

    /// Rows of output pixels: of each strip of output channels tap after tap, so that its weights stay in the first cache.
    fn rows(&self, source: &[T], weights: &[T], y: &mut [T], bias: Option<&[T]>) {
        let kernel = T::kernel();
        let (c, columns, padded) = (self.size[2], self.pixels[2], self.padded_columns());
        let rows = y.len() / columns / self.out;
        assert!(source.len() == (rows + self.kernel[0] - 1) * padded * c && y.len() == rows * columns * self.out);
        assert!(weights.len() == self.kernel[0] * self.kernel[1] * c * self.out);
        assert!(bias.is_none_or(|bias| bias.len() == self.out));
        // Tiles of about equal height.
        let height = columns.div_ceil(columns.div_ceil(kernel.rows));
        let strip = VECTORS * kernel.lanes;
        for left in (0..self.out).step_by(strip) {
            let width = strip.min(self.out - left);
            let mut before = 0;
            for (ky, taps) in self.taps() {
                let depth = taps.len() * c;
                let b = &weights[before * self.out + left * depth..][..width * depth];
                for row in 0..rows {
                    for first in (0..columns).step_by(height) {
                        let to = y[(row * columns + first) * self.out + left..].as_mut_ptr();
                        let (plus, plus_row) = match bias {
                            _ if before > 0 => (to.cast_const(), self.out),
                            Some(bias) => (bias[left..].as_ptr(), 0),
                            None => (std::ptr::null(), 0),
                        };
                        // SAFETY: the assertions above hold all rows, columns and taps, and `width` whole vectors.
                        unsafe {
                            kernel.run(&Tile {
                                rows: height.min(columns - first),
                                vectors: width / kernel.lanes,
                                depth,
                                // The pixels of a row of taps follow each other, and so do their channels.
                                a: source.as_ptr().add(((row + ky) * padded + first + taps.start) * c),
                                a_row: c,
                                a_step: 1,
                                b: b.as_ptr(),
                                b_step: width,
                                c: to,
                                c_row: self.out,
                                columns: width,
                                plus,
                                plus_row,
                            });
                        }
                    }
                }
                before += depth;
            }
        }
    }
}
