//! Matrix products on the CPU. The output is cut into tiles of a fixed size and never the depth, so that the bytes do
//! not depend on the number of threads.

use rayon::prelude::*;

use crate::tensor::Real;

/// Rows of the output that one task computes.
const TILE_ROWS: usize = 96;
/// Columns of the output that one task computes.
const TILE_COLUMNS: usize = 256;

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

/// What happens to the old content of the output.
#[derive(Clone, Copy)]
pub enum Output<'a, T> {
    /// It is overwritten.
    Set,
    /// It is overwritten by the product plus a row vector.
    Bias(&'a [T]),
    /// The product is added to it.
    Add,
}

/// `c = a b`, with `c` contiguous `[a.rows, b.columns]`.
///
/// # Panics
/// If the sizes do not fit.
pub fn matmul<T: Real>(a: Matrix<'_, T>, b: Matrix<'_, T>, output: Output<'_, T>, c: &mut [T]) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "a and b do not fit");
    assert_eq!(c.len(), m * n, "c does not fit");
    if m * n == 0 {
        return;
    }
    c.par_chunks_mut(TILE_ROWS * n).enumerate().for_each(|(tile, c)| {
        let top = tile * TILE_ROWS;
        let rows = c.len() / n;
        let add = match output {
            Output::Set => false,
            Output::Add => true,
            Output::Bias(bias) => {
                c.chunks_mut(n).for_each(|row| row.copy_from_slice(bias));
                true
            }
        };
        for left in (0..n).step_by(TILE_COLUMNS) {
            let columns = TILE_COLUMNS.min(n - left);
            let (a_rows, b_columns) = (&a.data[top * a.row_stride..], &b.data[left * b.column_stride..]);
            // SAFETY: the strides of a `Matrix` keep every element inside its slice (constructors check), and rows
            // `top..top + rows` and columns `left..left + columns` are inside both matrices and `c`.
            unsafe {
                gemm::gemm(
                    rows,
                    columns,
                    k,
                    c[left..].as_mut_ptr(),
                    1,
                    n as isize,
                    add,
                    a_rows.as_ptr(),
                    a.column_stride as isize,
                    a.row_stride as isize,
                    b_columns.as_ptr(),
                    b.column_stride as isize,
                    b.row_stride as isize,
                    T::from_f64(1.0),
                    T::from_f64(1.0),
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        }
    });
}

/// Sums the rows of `[rows, n]`: the gradient of a bias. Rows go in order, in blocks of a fixed size.
pub fn sum_rows<T: Real>(data: &[T], n: usize) -> Vec<T> {
    const BLOCK: usize = 256;
    let zero = T::from_f64(0.0);
    let blocks: Vec<Vec<T>> = data
        .par_chunks(BLOCK * n.max(1))
        .map(|block| {
            let mut sum = vec![zero; n];
            for row in block.chunks_exact(n) {
                for (s, &x) in sum.iter_mut().zip(row) {
                    *s += x;
                }
            }
            sum
        })
        .collect();
    let mut total = vec![zero; n];
    for block in blocks {
        for (t, x) in total.iter_mut().zip(block) {
            *t += x;
        }
    }
    total
}
