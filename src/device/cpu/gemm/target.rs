//! Where sums go.

use std::ops::Range;

use super::Output;
use super::blocking::Blocking;
use super::kernel::Tile;
use super::panels::Panels;
use crate::device::cpu::pool::{buffer, recycle};
use crate::dtype::Real;

/// Where a task's sums are: in the output, or in a tile of its own where that is transposed.
pub struct Target<'a, T: Real> {
    plan: &'a Blocking<'a, T>,
    rows: Range<usize>,
    columns: Range<usize>,
    c: *mut T,
    tile: Option<Vec<T>>,
}

impl<'a, T: Real> Target<'a, T> {
    pub fn new(plan: &'a Blocking<'a, T>, rows: Range<usize>, columns: Range<usize>, c: *mut T) -> Self {
        let lanes = plan.kernel.lanes;
        let padded = columns.len().next_multiple_of(lanes);
        let tile = plan.transposed.then(|| buffer(rows.len() * padded));
        let mut new = Self { plan, rows, columns, c, tile };
        new.begin();
        new
    }

    /// The distance between rows of sums.
    fn row(&self) -> usize {
        match self.tile {
            Some(_) => self.columns.len().next_multiple_of(self.plan.kernel.lanes),
            None => self.plan.columns,
        }
    }

    /// Where element (i, j) of these rows and columns is in the output.
    fn at(&self, i: usize, j: usize) -> *mut T {
        let (i, j) = (self.rows.start + i, self.columns.start + j);
        let at = if self.plan.transposed { j * self.plan.rows + i } else { i * self.plan.columns + j };
        self.c.wrapping_add(at)
    }

    /// Puts what the sums start with in place, unless the first block brings it.
    fn begin(&mut self) {
        let (rows, columns, row) = (self.rows.len(), self.columns.len(), self.row());
        let (output, empty) = (self.plan.output, self.plan.blocks.is_empty());
        let mut tile = self.tile.take();
        for i in 0..rows {
            // SAFETY: these elements of the output are this task's own, and in `Shared` for all that it has.
            unsafe {
                match (&mut tile, output) {
                    (None, Output::Set) if empty => {
                        std::slice::from_raw_parts_mut(self.at(i, 0), columns).fill(T::default());
                    }
                    (None, Output::Bias(bias)) if empty => std::slice::from_raw_parts_mut(self.at(i, 0), columns)
                        .copy_from_slice(&bias[self.columns.clone()]),
                    (None, _) => break,
                    (Some(tile), Output::Set) => {
                        if empty {
                            tile[i * row..][..columns].fill(T::default());
                        }
                    }
                    (Some(tile), Output::Add) => {
                        for (j, to) in tile[i * row..][..columns].iter_mut().enumerate() {
                            *to = *self.at(i, j);
                        }
                    }
                    (Some(tile), Output::Bias(bias)) => tile[i * row..][..columns].fill(bias[self.rows.start + i]),
                }
            }
        }
        self.tile = tile;
    }

    /// Adds the product of a block of the depth.
    pub fn add(&mut self, a: Panels<'_, T>, b: Panels<'_, T>, first: bool) {
        let kernel = self.plan.kernel;
        let (row, steps) = (self.row(), b.steps);
        assert_eq!(a.steps, steps, "the blocks differ");
        let whole_vectors = self.tile.is_some();
        let room = if whole_vectors { row } else { self.columns.len() };
        let base = match &mut self.tile {
            Some(tile) => tile.as_mut_ptr(),
            None => self.at(0, 0),
        };
        for b in b.iter() {
            let columns = if whole_vectors { b.width } else { b.lines };
            for a in a.iter() {
                assert!(a.first + a.lines <= self.rows.len() && b.first + columns <= room);
                let c = base.wrapping_add(a.first * row + b.first);
                let (plus, plus_row): (*const T, usize) = match self.plan.output {
                    Output::Set if first => (std::ptr::null(), 0),
                    Output::Bias(bias) if first && !self.plan.transposed => {
                        (bias[self.columns.start + b.first..][..columns].as_ptr(), 0)
                    }
                    _ => (c, row),
                };
                // SAFETY: the panels have all steps, and the assertion bounds what is written.
                unsafe {
                    kernel.run(&Tile {
                        rows: a.lines,
                        vectors: b.width / kernel.lanes,
                        depth: steps,
                        a: a.data.as_ptr(),
                        a_row: a.line_stride,
                        a_step: a.step_stride,
                        b: b.data.as_ptr(),
                        b_step: b.step_stride,
                        c,
                        c_row: row,
                        columns,
                        plus,
                        plus_row,
                    });
                }
            }
        }
    }

    /// Writes sums that are not in the output yet.
    pub fn finish(mut self) {
        let Some(tile) = self.tile.take() else { return };
        let row = tile.len() / self.rows.len();
        // A cache line of the tile goes to as many lines of the output at once.
        const LINES: usize = 16;
        for first in (0..self.columns.len()).step_by(LINES) {
            let lines = LINES.min(self.columns.len() - first);
            for (i, from) in tile.chunks_exact(row).enumerate() {
                for (j, &x) in from[first..][..lines].iter().enumerate() {
                    // SAFETY: this element of the output is this task's own.
                    unsafe { *self.at(i, first + j) = x };
                }
            }
        }
        recycle(tile);
    }
}
