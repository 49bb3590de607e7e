//! The matrix products of attention: panels of queries as columns, and sums over queries.

use super::heads::{Head, HeadMut};
use crate::device::cpu::gemm::{Gemm, LINES, PackTransposed, Tile, VECTORS};
use crate::device::cpu::math::{Elementary, vectorized};

/// `lanes` rows from `first` on, times `factor`, as the columns of `to`; zeros in the columns after them.
pub fn pack<T: Gemm + Elementary, const W: usize>(
    head: Head<'_, T>,
    first: usize,
    lanes: usize,
    factor: T,
    to: &mut [[T; W]],
) {
    assert!(lanes <= W && to.len() == head.size, "another size than the head's");
    for left in (0..W).step_by(LINES) {
        let mut from = [std::ptr::null(); LINES];
        for (i, from) in from.iter_mut().enumerate().take(lanes.saturating_sub(left)) {
            *from = head.row(first + left + i).as_ptr();
        }
        let pack = PackTransposed {
            from,
            steps: to.len(),
            to: to.as_flattened_mut()[left..].as_mut_ptr(),
            to_step: W,
            lines: LINES.min(W - left),
        };
        // SAFETY: rows of the head have a value for each row of `to`, and those have `lines` from `left` on.
        unsafe { T::kernel().pack_transposed(&pack) };
    }
    vectorized(
        #[inline(always)]
        || {
            for x in to.as_flattened_mut() {
                *x *= factor;
            }
        },
    );
}

/// The first columns of `panel`, as many as there are rows in `to` from `first` on or in the panel, as these rows: the
/// reverse of [`pack`].
pub fn unpack<T: Gemm, const W: usize>(panel: &[[T; W]], to: &mut HeadMut<'_, T>, first: usize) {
    assert_eq!(panel.len(), to.size, "another size than the head's");
    let lanes = W.min(to.rows - first);
    for (i, channels) in panel.chunks(LINES).enumerate() {
        let mut from = [std::ptr::null(); LINES];
        for (from, channel) in from.iter_mut().zip(channels) {
            *from = channel.as_ptr();
        }
        let (to, to_step) = to.rows_from(first, lanes);
        let pack =
            PackTransposed { from, steps: lanes, to: to.wrapping_add(i * LINES), to_step, lines: channels.len() };
        // SAFETY: `to` has as many rows, each of all channels, and the channels have as many lanes.
        unsafe { T::kernel().pack_transposed(&pack) };
    }
}

/// The left operand of a product: element (i, k) is at `i * row + k * step`.
#[derive(Clone, Copy)]
pub struct Left<'a, T> {
    data: &'a [T],
    row: usize,
    step: usize,
}

impl<'a, T> Left<'a, T> {
    /// The rows of a head from `from` on.
    pub fn rows(head: Head<'a, T>, from: usize) -> Self {
        let data = head.rows_from(from);
        let (row, step) = (head.stride, 1);
        Self { data, row, step }
    }

    /// The transpose of [`Left::rows`].
    pub fn columns(head: Head<'a, T>, from: usize) -> Self {
        let data = head.rows_from(from);
        let (row, step) = (1, head.stride);
        Self { data, row, step }
    }
}

/// `c = a b`, or `c += a b`, with a panel on the right.
pub fn multiply<T: Gemm, const W: usize>(a: Left<'_, T>, b: &[[T; W]], c: &mut [[T; W]], add: bool) {
    tiles(a, c.len(), b.as_flattened(), W, c.as_flattened_mut(), W, add);
}

/// `rows` rows of `c` (`c_row` apart), each `width` columns: those of `b`, which has one or two vectors of them.
fn tiles<T: Gemm>(a: Left<'_, T>, rows: usize, b: &[T], width: usize, c: &mut [T], c_row: usize, add: bool) {
    let kernel = T::kernel();
    let (depth, vectors) = (b.len() / width, width / kernel.lanes);
    assert!(rows > 0 && depth > 0 && width == vectors * kernel.lanes && b.len() == depth * width);
    assert!((rows - 1) * a.row + (depth - 1) * a.step < a.data.len(), "a head leaves its tensor");
    assert!((rows - 1) * c_row + width <= c.len(), "a product leaves its buffer");
    // Tiles of about equal height.
    let height = rows.div_ceil(rows.div_ceil(kernel.rows));
    for top in (0..rows).step_by(height) {
        let to = c[top * c_row..].as_mut_ptr();
        // SAFETY: the assertions above bound all that is read and written.
        unsafe {
            kernel.run(&Tile {
                rows: height.min(rows - top),
                vectors,
                depth,
                a: a.data.as_ptr().add(top * a.row),
                a_row: a.row,
                a_step: a.step,
                b: b.as_ptr(),
                b_step: width,
                c: to,
                c_row,
                columns: width,
                plus: if add { to } else { std::ptr::null() },
                plus_row: c_row,
            });
        }
    }
}

/// A gradient that is a sum over keys, `[queries, size]`: here channels are lanes, and so padded to whole vectors.
pub struct KeySum<'a, T> {
    to: HeadMut<'a, T>,
    sums: Vec<T>,
    padded: usize,
    /// The other operand of a panel of keys: strips of one or two vectors of channels, each `[panel, channels]`.
    operand: Vec<T>,
    panel: usize,
    /// Keys in the panel.
    keys: usize,
}

impl<'a, T: Gemm> KeySum<'a, T> {
    pub fn new(to: HeadMut<'a, T>, panel: usize) -> Self {
        let padded = to.size.next_multiple_of(T::kernel().lanes);
        Self {
            sums: vec![T::default(); to.rows * padded],
            operand: vec![T::default(); panel * padded],
            to,
            padded,
            panel,
            keys: 0,
        }
    }

    /// (first channel, channels) of each strip.
    fn strips(&self) -> impl Iterator<Item = (usize, usize)> + use<T> {
        let (padded, width) = (self.padded, VECTORS * T::kernel().lanes);
        (0..padded).step_by(width).map(move |left| (left, width.min(padded - left)))
    }

    /// Takes in `keys` rows from `first` on, times `factor`, as the operand.
    pub fn pack(&mut self, head: Head<'_, T>, first: usize, keys: usize, factor: T) {
        self.keys = keys;
        for (left, width) in self.strips() {
            let strip = &mut self.operand[left * self.panel..][..width * self.panel];
            for (j, to) in strip.chunks_exact_mut(width).take(keys).enumerate() {
                let channels = &head.row(first + j)[left..];
                to.iter_mut().zip(channels).for_each(|(to, &x)| *to = x * factor);
            }
        }
    }

    /// Adds `panel` `[queries, keys]` times the operand to the sums of queries from `from` on.
    pub fn add<const W: usize>(&mut self, from: usize, panel: &[[T; W]]) {
        let left_operand = Left { data: panel.as_flattened(), row: W, step: 1 };
        for (left, width) in self.strips() {
            // No more than the keys: what lanes without one hold is not always finite.
            let strip = &self.operand[left * W..][..width * self.keys];
            let sums = &mut self.sums[from * self.padded + left..];
            tiles(left_operand, panel.len(), strip, width, sums, self.padded, true);
        }
    }

    pub fn write(mut self) {
        for (i, sums) in self.sums.chunks_exact(self.padded).enumerate() {
            // Blocks of a known size are copied without a call.
            let (blocks, rest) = self.to.row(i).as_chunks_mut::<8>();
            let (from, _) = sums.as_chunks::<8>();
            blocks.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            let done = 8 * blocks.len();
            rest.iter_mut().zip(&sums[done..]).for_each(|(to, &sum)| *to = sum);
        }
    }
}
