//! The copy of the smaller operand that all threads read.

use rayon::prelude::*;

use super::kernel::{Kernel, VECTORS};
use super::{Columns, DEPTH};
use crate::tensor::{Real, buffer, recycle};

/// The right operand in panels of [`VECTORS`] vectors, each all of the depth long. The last may have one vector.
pub struct Packed<T> {
    data: Vec<T>,
    depth: usize,
    lanes: usize,
    padded: usize,
}

impl<T: Real> Packed<T> {
    /// Copies `b`, on all threads or this one.
    pub fn new(kernel: &Kernel<T>, b: &dyn Columns<T>, parallel: bool) -> Self {
        let (depth, columns) = (b.depth(), b.columns());
        let padded = columns.next_multiple_of(kernel.lanes);
        let panel = VECTORS * kernel.lanes;
        let mut data = buffer::<T>(padded * depth);
        let pack = |number: usize, block: usize, to: &mut [T]| {
            let left = number * panel;
            let width = panel.min(padded - left);
            let first = block * DEPTH;
            b.pack(
                first..first + to.len() / width,
                left..columns.min(left + width),
                width,
                to,
            );
        };
        let panels = data.chunks_mut((panel * depth).max(1)).enumerate();
        let blocks = panels.flat_map(|(number, to)| {
            let width = panel.min(padded - number * panel);
            to.chunks_mut(DEPTH * width)
                .enumerate()
                .map(move |(block, to)| (number, block, to))
        });
        if parallel {
            let blocks: Vec<_> = blocks.collect();
            blocks
                .into_par_iter()
                .for_each(|(number, block, to)| pack(number, block, to));
        } else {
            blocks.for_each(|(number, block, to)| pack(number, block, to));
        }
        Self {
            data,
            depth,
            lanes: kernel.lanes,
            padded,
        }
    }

    /// The panel that starts with a column, from a step of the depth on; and its vectors.
    pub fn panel(&self, column: usize, step: usize) -> (&[T], usize) {
        let width = (VECTORS * self.lanes).min(self.padded - column);
        (
            &self.data[column * self.depth + step * width..][..(self.depth - step) * width],
            width / self.lanes,
        )
    }

    /// Gives the memory back for the next product.
    pub fn recycle(self) {
        recycle(self.data);
    }
}
