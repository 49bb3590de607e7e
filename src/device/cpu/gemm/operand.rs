//! What is multiplied: plain matrices here, patches of an image in [`super::super::patches`].

use std::ops::Range;

use super::panels::Packer;
use crate::dtype::Real;

/// One side of a product: the rows of the left operand or the columns of the right one, each `depth` elements long.
pub trait Operand<T>: Sync {
    fn lines(&self) -> usize;

    fn depth(&self) -> usize;

    /// The elements where they are, if they lie in steady distances.
    fn in_place(&self) -> Option<InPlace<'_, T>> {
        None
    }

    /// Copies some of the depth of some lines into panels.
    fn pack(&self, lines: Range<usize>, depth: Range<usize>, to: &mut Packer<'_, T>);
}

/// Element (line, step) is `data[line * line_stride + step * step_stride]`; one of the two strides is 1.
#[derive(Clone, Copy)]
pub struct InPlace<'a, T> {
    pub data: &'a [T],
    pub line_stride: usize,
    pub step_stride: usize,
}

/// A view of contiguous data as lines of some depth.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    lines: usize,
    depth: usize,
    /// Whether the lines are contiguous; else the steps of the depth are.
    by_line: bool,
}

impl<'a, T> Matrix<'a, T> {
    /// `data` `[lines, depth]`.
    ///
    /// # Panics
    /// If `data` has another length.
    pub fn row_major(data: &'a [T], lines: usize, depth: usize) -> Self {
        Self::new(data, lines, depth, true)
    }

    /// `data` `[depth, lines]`.
    ///
    /// # Panics
    /// If `data` has another length.
    pub fn transposed(data: &'a [T], depth: usize, lines: usize) -> Self {
        Self::new(data, lines, depth, false)
    }

    fn new(data: &'a [T], lines: usize, depth: usize, by_line: bool) -> Self {
        assert_eq!(data.len(), lines * depth, "data does not fill {lines} lines of depth {depth}");
        Self { data, lines, depth, by_line }
    }
}

impl<T: Real> Operand<T> for Matrix<'_, T> {
    fn lines(&self) -> usize {
        self.lines
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn in_place(&self) -> Option<InPlace<'_, T>> {
        let (line_stride, step_stride) = if self.by_line { (self.depth, 1) } else { (1, self.lines) };
        Some(InPlace { data: self.data, line_stride, step_stride })
    }

    fn pack(&self, lines: Range<usize>, depth: Range<usize>, to: &mut Packer<'_, T>) {
        if self.by_line {
            let line = |i: usize| Some(&self.data[(lines.start + i) * self.depth..][depth.clone()]);
            to.lines(0..depth.len(), 1, line);
        } else {
            let step = |k: usize| &self.data[(depth.start + k) * self.lines..][lines.clone()];
            to.steps(depth.len(), step);
        }
    }
}
