//! What is multiplied: plain matrices here, patches of an image in [`super::super::patches`].

use std::ops::Range;

use crate::tensor::Real;

/// Where the elements of some rows are: (i, k) at `data[i * row + k * step]`.
pub struct Block<'a, T> {
    pub data: &'a [T],
    pub row: usize,
    pub step: usize,
}

/// A left operand `[rows, depth]`. Its elements are read one by one, so most layouts need no copy.
pub trait Rows<T>: Sync {
    fn rows(&self) -> usize;

    fn depth(&self) -> usize;

    /// A part of the operand, in place or gathered into `scratch`, which has room for it.
    fn block<'a>(&'a self, rows: Range<usize>, depth: Range<usize>, scratch: &'a mut [T]) -> Block<'a, T>;
}

/// A right operand `[depth, columns]`, copied into panels once.
pub trait Columns<T>: Sync {
    fn depth(&self) -> usize;

    fn columns(&self) -> usize;

    /// Writes the columns of a panel for some of the depth, one row of `width` after the other into `to`; what is
    /// past `columns` within the width is set to zero.
    fn pack(&self, depth: Range<usize>, columns: Range<usize>, width: usize, to: &mut [T]);
}

/// A strided view: element (i, j) is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `data` as `rows` contiguous rows.
    ///
    /// # Panics
    /// If `data` has another length.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "data does not fill {rows} x {columns}");
        Self {
            data,
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The transpose, of the same data.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

impl<T: Real> Rows<T> for Matrix<'_, T> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn depth(&self) -> usize {
        self.columns
    }

    fn block<'a>(&'a self, rows: Range<usize>, depth: Range<usize>, scratch: &'a mut [T]) -> Block<'a, T> {
        let data = &self.data[rows.start * self.row_stride + depth.start * self.column_stride..];
        if self.row_stride != 1 || self.column_stride < FAR {
            let (row, step) = (self.row_stride, self.column_stride);
            return Block { data, row, step };
        }
        let (row, step) = (1, rows.len());
        let scratch = &mut scratch[..rows.len() * depth.len()];
        for (k, to) in scratch.chunks_exact_mut(step).enumerate() {
            to.copy_from_slice(&data[k * self.column_stride..][..step]);
        }
        Block {
            data: scratch,
            row,
            step,
        }
    }
}

/// Steps that are this many elements apart are brought together first: each would be a cache line, and maybe a page.
const FAR: usize = 64;

impl<T: Real> Columns<T> for Matrix<'_, T> {
    fn depth(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn pack(&self, depth: Range<usize>, columns: Range<usize>, width: usize, to: &mut [T]) {
        let used = columns.len();
        let data = &self.data[depth.start * self.row_stride + columns.start * self.column_stride..];
        if self.column_stride == 1 {
            for (k, to) in to.chunks_exact_mut(width).enumerate() {
                to[..used].copy_from_slice(&data[k * self.row_stride..][..used]);
                to[used..].fill(T::default());
            }
            return;
        }
        // A few steps of the depth at a time: their part of each column is one cache line.
        const STEPS: usize = 16;
        for (group, to) in to.chunks_mut(STEPS * width).enumerate() {
            let first = group * STEPS * self.row_stride;
            let steps = to.len() / width;
            for j in 0..used {
                let column = &data[first + j * self.column_stride..];
                for k in 0..steps {
                    to[k * width + j] = column[k * self.row_stride];
                }
            }
            for row in to.chunks_exact_mut(width) {
                row[used..].fill(T::default());
            }
        }
    }
}
