//! Operands copied into the order in which the kernels read them.

use std::ops::Range;

use super::kernel::Kernel;
use super::operand::InPlace;
use super::pack::{LINES, PackStrided, PackTransposed};
use crate::device::cpu::pool::{buffer, recycle};
use crate::dtype::Real;

/// How lines are cut into panels: each has `width` of them, the last as few as there are, rounded up to `round`.
#[derive(Clone, Copy)]
pub struct Layout {
    pub width: usize,
    pub round: usize,
}

impl Layout {
    /// Lines with those that only fill up the last panel.
    pub fn padded(self, lines: usize) -> usize {
        lines.next_multiple_of(self.round)
    }

    /// The width of the panel that starts with line `first` of `lines`.
    fn width_at(self, first: usize, lines: usize) -> usize {
        self.width.min(self.padded(lines - first))
    }
}

/// Some lines of an operand over some steps of the depth.
#[derive(Clone, Copy)]
pub struct Panels<'a, T> {
    pub elements: Elements<'a, T>,
    pub layout: Layout,
    pub lines: usize,
    pub steps: usize,
}

#[derive(Clone, Copy)]
pub enum Elements<'a, T> {
    /// Panels one after the other, each `[steps, width]`.
    Packed(&'a [T]),
    /// As they came.
    InPlace(InPlace<'a, T>),
}

/// Lines that a kernel takes at a time: element (line, step) is `data[line * line_stride + step * step_stride]`.
pub struct Panel<'a, T> {
    pub data: &'a [T],
    pub first: usize,
    /// Lines that are not padding, and all.
    pub lines: usize,
    pub width: usize,
    pub line_stride: usize,
    pub step_stride: usize,
}

impl<'a, T: Copy> Panels<'a, T> {
    pub fn iter(self) -> impl Iterator<Item = Panel<'a, T>> + Clone {
        let Self { elements, layout, lines, steps } = self;
        (0..lines).step_by(layout.width).map(move |first| {
            let width = layout.width_at(first, lines);
            let known = width.min(lines - first);
            let (data, line_stride, step_stride) = match elements {
                Elements::Packed(data) => (&data[first * steps..][..width * steps], 1, width),
                Elements::InPlace(from) => {
                    let (line, step) = (from.line_stride, from.step_stride);
                    let end = (known - 1) * line + steps.saturating_sub(1) * step + 1;
                    (&from.data[first * line..][..end], line, step)
                }
            };
            Panel { data, first, lines: known, width, line_stride, step_stride }
        })
    }
}

/// Writes lines into panels.
pub struct Packer<'a, T> {
    kernel: &'a Kernel<T>,
    to: &'a mut [T],
    layout: Layout,
    lines: usize,
    steps: usize,
}

impl<'a, T: Real> Packer<'a, T> {
    pub fn new(kernel: &'a Kernel<T>, to: &'a mut [T], layout: Layout, lines: usize, steps: usize) -> Self {
        assert_eq!(to.len(), layout.padded(lines) * steps, "the panels have another size");
        Self { kernel, to, layout, lines, steps }
    }

    /// Lines that are contiguous over the depth: `line` gives the elements of one for the steps `steps.start`,
    /// `steps.start + every` and so on below `steps.end`, or none if they are zero.
    pub fn lines<'b>(&mut self, steps: Range<usize>, every: usize, line: impl Fn(usize) -> Option<&'b [T]>)
    where
        T: 'b,
    {
        let count = steps.len().div_ceil(every);
        for panel in (0..self.lines).step_by(self.layout.width) {
            let width = self.layout.width_at(panel, self.lines);
            for first in (0..width).step_by(LINES) {
                let written = LINES.min(width - first);
                let start = panel * self.steps + steps.start * width + first;
                if count > 0 {
                    let end = start + (count - 1) * every * width + written;
                    assert!(end <= self.to.len(), "steps outside of the panels");
                }
                let mut from = [std::ptr::null(); LINES];
                let known = self.lines.saturating_sub(panel + first).min(written);
                for (i, from) in from[..known].iter_mut().enumerate() {
                    if let Some(line) = line(panel + first + i) {
                        assert!(line.len() >= count, "a line is too short");
                        *from = line.as_ptr();
                    }
                }
                let transposed = PackTransposed {
                    from,
                    steps: count,
                    to: self.to[start..].as_mut_ptr(),
                    to_step: every * width,
                    lines: written,
                };
                // SAFETY: the assertions above bound what is read and written.
                unsafe { self.kernel.pack_transposed(&transposed) };
            }
        }
    }

    /// Steps that are contiguous over the lines: `step` gives all lines of one.
    pub fn steps<'b>(&mut self, steps: usize, step: impl Fn(usize) -> &'b [T])
    where
        T: 'b,
    {
        let width = self.layout.width;
        let last = self.layout.width_at(self.lines.saturating_sub(1) / width * width, self.lines);
        assert!(steps <= self.steps);
        for k in 0..steps {
            let from = step(k);
            assert!(from.len() >= self.lines, "a step is too short");
            let strided = PackStrided {
                from: from.as_ptr(),
                lines: self.lines,
                to: self.to.as_mut_ptr(),
                width,
                last,
                step: k,
                steps: self.steps,
            };
            // SAFETY: `from` has all lines, and `to` the panels of all steps.
            unsafe { self.kernel.pack_strided(&strided) };
        }
    }

    /// `count` lines of one step from line `first` on, zeros if there is no `run`.
    pub fn part(&mut self, step: usize, mut first: usize, run: Option<&[T]>, count: usize) {
        let (width, end) = (self.layout.width, first + count);
        let mut run = run.map(|run| &run[..count]);
        while first < end {
            let (panel, within) = (first / width * width, first % width);
            let count = (width - within).min(end - first);
            let row = self.layout.width_at(panel, self.lines);
            let to = &mut self.to[panel * self.steps + step * row + within..][..count];
            match &mut run {
                Some(run) => {
                    let (now, later) = run.split_at(count);
                    to.copy_from_slice(now);
                    *run = later;
                }
                None => to.fill(T::default()),
            }
            first += count;
        }
    }

    /// Zeroes the lines that only fill up the last panel.
    pub fn pad(&mut self) {
        let width = self.layout.width;
        let panel = self.lines.saturating_sub(1) / width * width;
        let (known, row) = (self.lines - panel, self.layout.width_at(panel, self.lines));
        if known < row {
            for to in self.to[panel * self.steps..].chunks_exact_mut(row) {
                to[known..].fill(T::default());
            }
        }
    }
}

/// Memory for panels, aligned to a cache line.
pub struct Aligned<T: Real> {
    data: Vec<T>,
    offset: usize,
    len: usize,
}

impl<T: Real> Aligned<T> {
    /// `len` elements with unspecified values.
    pub fn new(len: usize) -> Self {
        const LINE_BYTES: usize = 64;
        let data = buffer::<T>(len + LINE_BYTES / size_of::<T>());
        let offset = data.as_ptr().align_offset(LINE_BYTES);
        Self { data, offset, len }
    }

    pub fn get(&self) -> &[T] {
        &self.data[self.offset..][..self.len]
    }

    pub fn get_mut(&mut self) -> &mut [T] {
        &mut self.data[self.offset..][..self.len]
    }
}

impl<T: Real> Drop for Aligned<T> {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.data));
    }
}
