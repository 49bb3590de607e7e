//! The patches of an image under a convolution's kernel ("im2col"), gathered a block at a time as operands of a matrix
//! product.

use std::ops::Range;

use super::gemm::{Block, Columns, Rows};
use crate::tensor::{Real, buffer, recycle};

/// Patch p belongs to an output pixel (image, y, x); under tap (ky, kx) lies the source pixel `y * step + ky + offset`,
/// zero where that is outside. As rows of a left operand, the values of a patch are in the order kernel height, kernel
/// width, channels.
pub struct Patches<'a, T> {
    pub data: &'a [T],
    /// Height, width and channels of the source.
    pub size: [usize; 3],
    pub kernel: [usize; 2],
    /// Images, and rows and columns of output pixels in each.
    pub pixels: [usize; 3],
    pub step: usize,
    pub offset: [isize; 2],
}

impl<T: Real> Patches<'_, T> {
    /// How many patches there are.
    pub fn count(&self) -> usize {
        self.pixels.iter().product()
    }

    /// Values in a patch.
    pub fn values(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.size[2]
    }

    /// Whether the patches are the pixels of the source.
    fn in_place(&self) -> bool {
        let same = self.pixels[1..] == self.size[..2];
        same && self.kernel == [1, 1] && self.step == 1 && self.offset == [0, 0]
    }

    /// Writes some values of some patches to `to`, one patch after the other.
    fn gather(&self, patches: Range<usize>, values: Range<usize>, to: &mut [T]) {
        let [height, width, channels] = self.size;
        let [_, rows, columns] = self.pixels;
        let line = self.kernel[1] * channels;
        let (first_ky, first_skipped) = (values.start / line, values.start % line);
        let start = patches.start;
        let (mut image, mut y, mut x) = (start / (rows * columns), start / columns % rows, start % columns);
        for to in to.chunks_exact_mut(values.len()) {
            let (mut ky, mut skipped, mut rest) = (first_ky, first_skipped, to);
            while !rest.is_empty() {
                let part;
                (part, rest) = rest.split_at_mut((line - skipped).min(rest.len()));
                let source = (y * self.step + ky) as isize + self.offset[0];
                if (0..height as isize).contains(&source) {
                    let from = &self.data[(image * height + source as usize) * width * channels..][..width * channels];
                    self.gather_line(x, skipped, from, part);
                } else {
                    part.fill(T::default());
                }
                (ky, skipped) = (ky + 1, 0);
            }
            x += 1;
            if x == columns {
                (x, y) = (0, y + 1);
            }
            if y == rows {
                (y, image) = (0, image + 1);
            }
        }
    }

    /// One line of a patch, from its value number `skipped` on, out of a line of the source. Neighbouring taps are
    /// neighbours in the source: zeros, one run, zeros.
    fn gather_line(&self, x: usize, skipped: usize, from: &[T], to: &mut [T]) {
        let start = ((x * self.step) as isize + self.offset[1]) * self.size[2] as isize + skipped as isize;
        let len = to.len() as isize;
        let before = (-start).clamp(0, len) as usize;
        let end = (from.len() as isize - start).clamp(before as isize, len) as usize;
        to[..before].fill(T::default());
        if before < end {
            let run = (start + before as isize) as usize;
            to[before..end].copy_from_slice(&from[run..][..end - before]);
        }
        to[end..].fill(T::default());
    }
}

impl<T: Real> Rows<T> for Patches<'_, T> {
    fn rows(&self) -> usize {
        self.count()
    }

    fn depth(&self) -> usize {
        self.values()
    }

    fn block<'a>(&'a self, rows: Range<usize>, depth: Range<usize>, scratch: &'a mut [T]) -> Block<'a, T> {
        let (row, step) = (depth.len(), 1);
        if self.in_place() {
            let row = self.size[2];
            let data = &self.data[rows.start * row + depth.start..];
            return Block { data, row, step };
        }
        let scratch = &mut scratch[..rows.len() * depth.len()];
        self.gather(rows, depth, scratch);
        Block {
            data: scratch,
            row,
            step,
        }
    }
}

/// The transpose: patches as columns.
pub struct Transposed<'a, T>(pub Patches<'a, T>);

impl<T: Real> Rows<T> for Transposed<'_, T> {
    fn rows(&self) -> usize {
        self.0.values()
    }

    fn depth(&self) -> usize {
        self.0.count()
    }

    fn block<'a>(&'a self, rows: Range<usize>, depth: Range<usize>, scratch: &'a mut [T]) -> Block<'a, T> {
        let (row, step) = (1, rows.len());
        let scratch = &mut scratch[..rows.len() * depth.len()];
        self.0.gather(depth, rows, scratch);
        Block {
            data: scratch,
            row,
            step,
        }
    }
}

impl<T: Real> Columns<T> for Transposed<'_, T> {
    fn depth(&self) -> usize {
        self.0.values()
    }

    fn columns(&self) -> usize {
        self.0.count()
    }

    fn pack(&self, depth: Range<usize>, columns: Range<usize>, width: usize, to: &mut [T]) {
        let (steps, used) = (depth.len(), columns.len());
        let mut gathered = buffer::<T>(steps * used);
        self.0.gather(columns, depth, &mut gathered);
        for (k, row) in to.chunks_exact_mut(width).enumerate() {
            for (to, &x) in row.iter_mut().zip(gathered[k..].iter().step_by(steps)) {
                *to = x;
            }
            row[used..].fill(T::default());
        }
        recycle(gathered);
    }
}

/// Some taps of a kernel `[c_out, all_taps, c_in]`, for the gradient of a convolution. As columns it is
/// `[taps * c_out, c_in]`, as rows the transpose of that.
pub struct Taps<'a, T> {
    pub weight: &'a [T],
    pub c_out: usize,
    pub all_taps: usize,
    pub c_in: usize,
    pub taps: Vec<usize>,
}

impl<T: Real> Taps<'_, T> {
    /// Some input channels for one step of the depth.
    fn line(&self, step: usize, channels: Range<usize>) -> &[T] {
        let (tap, c_out) = (step / self.c_out, step % self.c_out);
        &self.weight[(c_out * self.all_taps + self.taps[tap]) * self.c_in..][channels]
    }
}

impl<T: Real> Columns<T> for Taps<'_, T> {
    fn depth(&self) -> usize {
        self.taps.len() * self.c_out
    }

    fn columns(&self) -> usize {
        self.c_in
    }

    fn pack(&self, depth: Range<usize>, columns: Range<usize>, width: usize, to: &mut [T]) {
        for (k, to) in depth.zip(to.chunks_exact_mut(width)) {
            to[..columns.len()].copy_from_slice(self.line(k, columns.clone()));
            to[columns.len()..].fill(T::default());
        }
    }
}

impl<T: Real> Rows<T> for Taps<'_, T> {
    fn rows(&self) -> usize {
        self.c_in
    }

    fn depth(&self) -> usize {
        self.taps.len() * self.c_out
    }

    fn block<'a>(&'a self, rows: Range<usize>, depth: Range<usize>, scratch: &'a mut [T]) -> Block<'a, T> {
        let (row, step) = (1, rows.len());
        let scratch = &mut scratch[..rows.len() * depth.len()];
        for (k, to) in depth.zip(scratch.chunks_exact_mut(step)) {
            to.copy_from_slice(self.line(k, rows.clone()));
        }
        Block {
            data: scratch,
            row,
            step,
        }
    }
}
