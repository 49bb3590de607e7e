//! One head of `[n, t, heads * size]`: rows that lie among those of the other heads.

use std::marker::PhantomData;

/// `rows` rows of `size` values, `stride` apart.
#[derive(Clone, Copy)]
pub struct Head<'a, T> {
    data: &'a [T],
    pub rows: usize,
    pub stride: usize,
    pub size: usize,
}

impl<'a, T> Head<'a, T> {
    /// Head `number % heads` of sample `number / heads` of `data` `[n, rows, heads * size]`.
    ///
    /// # Panics
    /// If it leaves the data.
    pub fn new(data: &'a [T], number: usize, rows: usize, heads: usize, size: usize) -> Self {
        let stride = heads * size;
        let data = &data[number / heads * rows * stride..][..rows * stride];
        Self { data: &data[number % heads * size..], rows, stride, size }
    }

    pub fn row(&self, i: usize) -> &'a [T] {
        &self.data[i * self.stride..][..self.size]
    }

    /// All values from row `i` on, with those of other heads between the rows.
    pub fn rows_from(&self, i: usize) -> &'a [T] {
        &self.data[i * self.stride..]
    }
}

/// A block of rows of a head that somebody writes while others write the rest.
pub struct HeadMut<'a, T> {
    data: *mut T,
    pub rows: usize,
    stride: usize,
    pub size: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: `split` gives no element to two of them, so each is an exclusive borrow.
unsafe impl<T: Send> Send for HeadMut<'_, T> {}

impl<'a, T> HeadMut<'a, T> {
    /// Cuts `data` `[n, rows, heads * size]` into blocks of up to `block` rows of one head, in the order of sample,
    /// head, row.
    ///
    /// # Panics
    /// If the sizes are not those of the data.
    pub fn split(data: &'a mut [T], rows: usize, heads: usize, size: usize, block: usize) -> Vec<Self> {
        let stride = heads * size;
        assert!(block > 0 && rows * stride > 0, "heads without values");
        assert_eq!(data.len() % (rows * stride), 0, "data does not hold whole samples");
        let samples = data.chunks_exact_mut(rows * stride).map(<[T]>::as_mut_ptr);
        let piece = |sample: *mut T, head: usize, top: usize| Self {
            data: sample.wrapping_add(top * stride + head * size),
            rows: block.min(rows - top),
            stride,
            size,
            borrowed: PhantomData,
        };
        samples
            .flat_map(|sample| {
                (0..heads).flat_map(move |head| (0..rows).step_by(block).map(move |top| piece(sample, head, top)))
            })
            .collect()
    }

    pub fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: row `i` of this block lies inside the data that `split` borrowed, and in no other block.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.size) }
    }
    /// Where row `first` begins, and how far apart rows are, for a caller that writes `count` rows of `size` values.
    pub fn rows_from(&mut self, first: usize, count: usize) -> (*mut T, usize) {
        assert!(first + count <= self.rows, "rows {first} to {count} more of {}", self.rows);
        (self.data.wrapping_add(first * self.stride), self.stride)
    }
}
