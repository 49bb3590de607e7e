//! How a product is cut into tasks.

use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{Kernel, VECTORS};
use super::operand::InPlace;
use super::panels::{Aligned, Elements, Layout, Packer, Panels};
use super::target::Target;
use super::{Operand, Output, Pair};
use crate::device::cpu::pool::{buffer, recycle};
use crate::dtype::Real;

/// Steps of the depth that are summed before they are added to the output: a panel of them fits into the first cache.
const DEPTH: usize = 256;
/// Lines of the shared operand that a task takes at a time: with its own, they and the output fit into the second
/// cache.
const SHARED_ROWS: usize = 512;
const SHARED_COLUMNS: usize = 1024;
/// Panels that a task has of its own at most.
const OWN_PANELS: usize = 8;
/// Products smaller than this are over before another thread has woken up.
const SMALLEST_PARALLEL: usize = 1 << 18;
/// And so are copies of fewer elements.
const SMALLEST_PARALLEL_COPY: usize = 1 << 15;
/// Elements that are read where they are may be this far apart: farther ones compete for few lines of the caches.
const NEAR: usize = 64;
/// A product of at most this many elements is cut up along its depth, having too few tasks otherwise, into pieces of
/// this many blocks.
const FEW: usize = 1 << 12;
const PIECE: usize = 4;
/// Tasks for each thread, if there are panels enough: threads may be unequally fast.
const TASKS: usize = 4;

/// Some of the depth of one of the products.
pub struct Block {
    pub pair: usize,
    pub depth: Range<usize>,
}

/// The output as tasks see it: each writes elements that no other does.
pub struct Shared<T>(*mut T);
// SAFETY: `run` gives every task its own elements.
unsafe impl<T: Send> Sync for Shared<T> {}

/// A product, and how it is cut up.
pub struct Blocking<'a, T> {
    pub kernel: &'a Kernel<T>,
    pub pairs: &'a [Pair<'a, T>],
    pub blocks: &'a [Block],
    pub rows: usize,
    pub columns: usize,
    pub row_layout: Layout,
    pub column_layout: Layout,
    pub output: Output<'a, T>,
    pub transposed: bool,
}

pub fn run<T: Real>(kernel: &Kernel<T>, pairs: &[Pair<'_, T>], output: Output<'_, T>, c: &mut [T], transposed: bool) {
    let (rows, columns) = pairs.first().map_or((0, 0), |(a, b)| (a.lines(), b.lines()));
    let (mut blocks, mut depth) = (Vec::new(), 0);
    for (pair, (a, b)) in pairs.iter().enumerate() {
        assert!(a.lines() == rows && b.lines() == columns && a.depth() == b.depth(), "the operands do not fit");
        for first in (0..a.depth()).step_by(DEPTH) {
            blocks.push(Block { pair, depth: first..a.depth().min(first + DEPTH) });
        }
        depth += a.depth();
    }
    assert_eq!(c.len(), rows * columns, "c does not fit");
    if let Output::Bias(bias) = output {
        assert_eq!(bias.len(), if transposed { rows } else { columns }, "the bias does not fit");
    }
    if rows * columns == 0 {
        return;
    }
    let whole = Blocking {
        kernel,
        pairs,
        blocks: &blocks,
        rows,
        columns,
        // Tiles of about equal height.
        row_layout: Layout { width: rows.div_ceil(rows.div_ceil(kernel.rows)), round: 1 },
        column_layout: Layout { width: VECTORS * kernel.lanes, round: kernel.lanes },
        output,
        transposed,
    };
    let parallel = rows * columns * depth >= SMALLEST_PARALLEL;
    if rows * columns > FEW || blocks.len() < 2 * PIECE {
        whole.run(&Shared(c.as_mut_ptr()), parallel);
        return;
    }
    let (first, rest) = blocks.split_at(PIECE);
    let mut sums = buffer::<T>(rest.len().div_ceil(PIECE) * c.len());
    let rest = rest.chunks(PIECE).zip(sums.chunks_exact_mut(c.len()));
    let mut pieces = vec![(first, output, &mut *c)];
    pieces.extend(rest.map(|(blocks, sums)| (blocks, Output::Set, sums)));
    let least = if parallel { 1 } else { pieces.len() };
    pieces.into_par_iter().with_min_len(least).for_each(|(blocks, output, c)| {
        let piece = Blocking { blocks, output, ..whole };
        piece.run(&Shared(c.as_mut_ptr()), false);
    });
    for sums in sums.chunks_exact(c.len()) {
        c.iter_mut().zip(sums).for_each(|(c, &sum)| *c += sum);
    }
    recycle(sums);
}

impl<T: Real> Blocking<'_, T> {
    fn run(&self, c: &Shared<T>, parallel: bool) {
        let share_rows = self.rows <= self.columns && self.rows <= SHARED_ROWS;
        let threads = if parallel { rayon::current_num_threads() } else { 1 };
        let shared = self.pack_shared(share_rows, parallel);
        let (lines, layout) =
            if share_rows { (self.columns, self.column_layout) } else { (self.rows, self.row_layout) };
        let panels = lines.div_ceil(layout.width);
        let own = panels.div_ceil(TASKS * threads).clamp(1, OWN_PANELS) * layout.width;
        let task = |task: usize| {
            let own = task * own..lines.min((task + 1) * own);
            self.task(share_rows, own, shared.get(), c);
        };
        let tasks = 0..lines.div_ceil(own);
        if threads > 1 {
            tasks.into_par_iter().for_each(task);
        } else {
            tasks.for_each(task);
        }
    }

    fn operand(&self, pair: usize, rows: bool) -> &dyn Operand<T> {
        let (a, b) = self.pairs[pair];
        if rows { a } else { b }
    }

    /// Some lines and steps of an operand where they are, if a kernel reads them well there.
    fn in_place(&self, rows: bool, block: &Block, lines: Range<usize>) -> Option<InPlace<'_, T>> {
        let operand = self.operand(block.pair, rows);
        let all = operand.in_place()?;
        let near = if all.line_stride == 1 {
            all.step_stride <= NEAR && (rows || all.step_stride.is_multiple_of(self.kernel.lanes))
        } else {
            rows && operand.depth() <= DEPTH
        };
        let start = lines.start * all.line_stride + block.depth.start * all.step_stride;
        near.then(|| InPlace { data: &all.data[start..], ..all })
    }

    /// One operand whole: for each block its panels, unless it is read where it is.
    fn pack_shared(&self, rows: bool, parallel: bool) -> Aligned<T> {
        let (lines, layout) = if rows { (self.rows, self.row_layout) } else { (self.columns, self.column_layout) };
        let blocks = self.blocks.iter();
        let packed: Vec<&Block> = blocks.filter(|block| self.in_place(rows, block, 0..lines).is_none()).collect();
        let depth: usize = packed.iter().map(|block| block.depth.len()).sum();
        let mut data = Aligned::new(layout.padded(lines) * depth);
        let mut rest = data.get_mut();
        let mut parts = Vec::new();
        for block in packed {
            for first in (0..lines).step_by(2 * layout.width) {
                let lines = first..lines.min(first + 2 * layout.width);
                let part;
                (part, rest) = rest.split_at_mut(layout.padded(lines.len()) * block.depth.len());
                parts.push((block, lines, part));
            }
        }
        let pack = |(block, lines, part): (&Block, Range<usize>, &mut [T])| {
            let mut packer = Packer::new(self.kernel, part, layout, lines.len(), block.depth.len());
            self.operand(block.pair, rows).pack(lines, block.depth.clone(), &mut packer);
        };
        if parallel && lines * depth >= SMALLEST_PARALLEL_COPY {
            parts.into_par_iter().for_each(pack);
        } else {
            parts.into_iter().for_each(pack);
        }
        data
    }

    /// All of the shared operand times some lines of the other one.
    fn task(&self, share_rows: bool, own: Range<usize>, shared: &[T], c: &Shared<T>) {
        let (own_layout, shared_layout, shared_lines, chunk) = if share_rows {
            let chunk = SHARED_ROWS / self.row_layout.width * self.row_layout.width;
            (self.column_layout, self.row_layout, self.rows, chunk)
        } else {
            (self.row_layout, self.column_layout, self.columns, SHARED_COLUMNS)
        };
        let padded = own_layout.padded(own.len());
        let mut scratch = None;
        let room = OWN_PANELS * VECTORS * self.kernel.lanes.max(self.kernel.rows) * DEPTH;
        for first in (0..shared_lines).step_by(chunk) {
            let lines = first..shared_lines.min(first + chunk);
            let (rows, columns) = if share_rows { (lines.clone(), own.clone()) } else { (own.clone(), lines.clone()) };
            let mut target = Target::new(self, rows, columns, c.0);
            // Steps of the shared operand that were packed so far.
            let mut before = 0;
            for (number, block) in self.blocks.iter().enumerate() {
                let steps = block.depth.len();
                let own_elements = match self.in_place(!share_rows, block, own.clone()) {
                    Some(elements) => Elements::InPlace(elements),
                    None => {
                        let scratch = scratch.get_or_insert_with(|| Aligned::new(room)).get_mut();
                        let scratch = &mut scratch[..padded * steps];
                        let mut packer = Packer::new(self.kernel, scratch, own_layout, own.len(), steps);
                        self.operand(block.pair, !share_rows).pack(own.clone(), block.depth.clone(), &mut packer);
                        Elements::Packed(scratch)
                    }
                };
                let shared_elements = match self.in_place(share_rows, block, lines.clone()) {
                    Some(elements) => Elements::InPlace(elements),
                    None => {
                        let start = shared_layout.padded(shared_lines) * before + first * steps;
                        before += steps;
                        Elements::Packed(&shared[start..][..shared_layout.padded(lines.len()) * steps])
                    }
                };
                let panels = |elements, layout, lines| Panels { elements, layout, lines, steps };
                let own = panels(own_elements, own_layout, own.len());
                let shared = panels(shared_elements, shared_layout, lines.len());
                let (a, b) = if share_rows { (shared, own) } else { (own, shared) };
                target.add(a, b, number == 0);
            }
            target.finish();
        }
    }
}
