//! Matrix products on the CPU, blocked for caches and registers after Goto and van de Geijn 2008 ("Anatomy of
//! high-performance matrix multiplication"), with the smaller operand packed once for all threads.
//!
//! An element of the output is summed in blocks of `DEPTH`, in order, by one thread: the bytes depend neither on the
//! number of threads nor on how the output is cut into tiles.

mod kernel;
mod operand;
mod packed;

use std::ops::Range;

use rayon::prelude::*;

use crate::tensor::{Real, buffer, recycle};
pub use kernel::Gemm;
use kernel::{Kernel, Tile, VECTORS};
pub use operand::{Block, Columns, Matrix, Rows};
use packed::Packed;

/// Steps of the depth that are summed before they are added to the output: a panel of them fits into the first cache.
const DEPTH: usize = 256;
/// Rows that a task computes: their block of the left operand fits into the second cache. A multiple of 12 and 6.
const TILE_ROWS: usize = 96;
/// Columns that a task computes: with the rows, the output tile fits into the second cache too.
const TILE_COLUMNS: usize = 256;
/// Products smaller than this are over before another thread has woken up.
const SMALLEST_PARALLEL: usize = 1 << 18;
/// Tasks that a large product is cut into at least, if it has the rows and columns.
const TASKS: usize = 16;

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
pub fn matmul<T: Gemm>(a: Matrix<'_, T>, b: Matrix<'_, T>, output: Output<'_, T>, c: &mut [T]) {
    if Rows::rows(&a) < Columns::columns(&b) {
        product_transposed(&b.t(), &a.t(), output, c);
    } else {
        product(&a, &b, output, c);
    }
}

/// `c = a b`, with `c` contiguous `[a.rows, b.columns]`; `b` is packed, so it should be the smaller one.
///
/// # Panics
/// If the sizes do not fit.
pub fn product<T: Gemm>(a: &dyn Rows<T>, b: &dyn Columns<T>, output: Output<'_, T>, c: &mut [T]) {
    run(T::kernel(), a, b, output, c, false);
}

/// `c = (a b)^T`, with `c` contiguous `[b.columns, a.rows]`; `b` is packed, so it should be the smaller one.
///
/// # Panics
/// If the sizes do not fit.
pub fn product_transposed<T: Gemm>(a: &dyn Rows<T>, b: &dyn Columns<T>, output: Output<'_, T>, c: &mut [T]) {
    run(T::kernel(), a, b, output, c, true);
}

/// The output as tasks see it: each writes rows and columns that no other does.
struct Shared<T>(*mut T);
// SAFETY: `run` gives every task its own elements.
unsafe impl<T: Send> Sync for Shared<T> {}

fn run<T: Real>(
    kernel: &Kernel<T>,
    a: &dyn Rows<T>,
    b: &dyn Columns<T>,
    output: Output<'_, T>,
    c: &mut [T],
    transposed: bool,
) {
    let (m, n, k) = (a.rows(), b.columns(), a.depth());
    assert_eq!(k, b.depth(), "a and b do not fit");
    assert_eq!(c.len(), m * n, "c does not fit");
    if let Output::Bias(bias) = output {
        assert_eq!(bias.len(), if transposed { m } else { n }, "the bias does not fit");
    }
    if m * n == 0 {
        return;
    }
    let parallel = m * n * k >= SMALLEST_PARALLEL;
    let packed = Packed::new(kernel, b, parallel);
    let [rows, columns] = tile_size(m, n, kernel);
    let (down, across) = (m.div_ceil(rows), n.div_ceil(columns));
    let c = Shared(c.as_mut_ptr());
    let task = |task: usize| {
        let c = &c;
        let (top, left) = (task / across * rows, task % across * columns);
        let (rows, columns) = (top..m.min(top + rows), left..n.min(left + columns));
        let row = columns.len().next_multiple_of(kernel.lanes);
        let mut tile = buffer::<T>(TILE_ROWS * TILE_COLUMNS);
        multiply(kernel, a, &packed, rows.clone(), columns.clone(), &mut tile, row);
        let stride = if transposed { m } else { n };
        // SAFETY: `c` has all rows and columns, and these are this task's own.
        unsafe { write(&tile, row, rows, columns, output, c.0, stride, transposed) };
        recycle(tile);
    };
    if parallel {
        (0..down * across).into_par_iter().for_each(task);
    } else {
        (0..down * across).for_each(task);
    }
    packed.recycle();
}

/// The rows and columns of a task: less than the cache allows where there would be few tasks.
fn tile_size<T>(m: usize, n: usize, kernel: &Kernel<T>) -> [usize; 2] {
    let panel = VECTORS * kernel.lanes;
    let (mut rows, mut columns) = (TILE_ROWS, TILE_COLUMNS);
    loop {
        if m.div_ceil(rows) * n.div_ceil(columns) >= TASKS {
            break;
        }
        if n > panel && columns > 2 * panel {
            columns /= 2;
        } else if rows > 2 * kernel.rows {
            rows /= 2;
        } else {
            break;
        }
    }
    [rows, columns]
}

/// Computes rows and columns of the product into `tile`, whose rows are `row` apart.
fn multiply<T: Real>(
    kernel: &Kernel<T>,
    a: &dyn Rows<T>,
    b: &Packed<T>,
    rows: Range<usize>,
    columns: Range<usize>,
    tile: &mut [T],
    row: usize,
) {
    let depth = a.depth();
    if depth == 0 {
        tile.fill(T::default());
    }
    let mut scratch = buffer::<T>(TILE_ROWS * DEPTH);
    for first in (0..depth).step_by(DEPTH) {
        let steps = DEPTH.min(depth - first);
        let block = a.block(rows.clone(), first..first + steps, &mut scratch);
        let last = (rows.len() - 1) * block.row + (steps - 1) * block.step;
        assert!(last < block.data.len(), "the operand is shorter than it says");
        for left in columns.clone().step_by(VECTORS * kernel.lanes) {
            let (panel, vectors) = b.panel(left, first);
            assert!(panel.len() >= steps * vectors * kernel.lanes);
            for top in (0..rows.len()).step_by(kernel.rows) {
                let height = kernel.rows.min(rows.len() - top);
                let at = top * row + left - columns.start;
                let c = &mut tile[at..][..(height - 1) * row + vectors * kernel.lanes];
                // SAFETY: the assertions above bound what is read, and the slice what is written.
                unsafe {
                    kernel.run(&Tile {
                        rows: height,
                        vectors,
                        depth: steps,
                        a: block.data[top * block.row..].as_ptr(),
                        a_row: block.row,
                        a_step: block.step,
                        b: panel.as_ptr(),
                        c: c.as_mut_ptr(),
                        c_row: row,
                        add: first > 0,
                    });
                }
            }
        }
    }
    recycle(scratch);
}

/// Puts a finished tile into the output or its transpose, whose contiguous lines are `stride` apart.
///
/// # Safety
/// `c` must be valid for these rows and columns, and nobody else may use them.
#[expect(clippy::too_many_arguments, reason = "two places, their sizes and what to do")]
unsafe fn write<T: Real>(
    tile: &[T],
    row: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    output: Output<'_, T>,
    c: *mut T,
    stride: usize,
    transposed: bool,
) {
    let bias = |at: Range<usize>| match output {
        Output::Bias(bias) => &bias[at],
        _ => &[],
    };
    if !transposed {
        let bias = bias(columns.clone());
        for (i, line) in rows.enumerate() {
            // SAFETY: demanded of the caller.
            let to = unsafe { std::slice::from_raw_parts_mut(c.add(line * stride + columns.start), columns.len()) };
            let from = &tile[i * row..][..to.len()];
            match output {
                Output::Set => to.copy_from_slice(from),
                Output::Add => to.iter_mut().zip(from).for_each(|(c, &x)| *c += x),
                Output::Bias(_) => to.iter_mut().zip(from).zip(bias).for_each(|((c, &x), &b)| *c = x + b),
            }
        }
        return;
    }
    // A cache line of the tile goes to as many lines of the output at once.
    const LINES: usize = 16;
    let bias = bias(rows.clone());
    for first in columns.clone().step_by(LINES) {
        let lines = LINES.min(columns.end - first);
        for (i, line) in rows.clone().enumerate() {
            let from = &tile[i * row + first - columns.start..][..lines];
            for (j, &x) in from.iter().enumerate() {
                // SAFETY: demanded of the caller.
                let to = unsafe { &mut *c.add((first + j) * stride + line) };
                *to = match output {
                    Output::Set => x,
                    Output::Add => *to + x,
                    Output::Bias(_) => x + bias[i],
                };
            }
        }
    }
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

#[cfg(test)]
mod tests;
