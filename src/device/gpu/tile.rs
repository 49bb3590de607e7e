//! The tiles of `tile.h`: which size a product takes, and how the blocks lie.

use super::launch::Builder;
use super::table::{Kernel, kernels};
use crate::tensor::DType;

/// Blocks that keep a GPU busy: with fewer large tiles, small ones are taken. It depends on the shape alone, and so do
/// results.
const ENOUGH_BLOCKS: usize = 128;
/// Values of k that one slice of a weight's gradient adds up at least.
const LEAST_SLICE: usize = 512;

/// What a block makes.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    size: usize,
    threads: usize,
}

impl Tile {
    /// For `[m, n]` sums in so many slices: the large tile where there is work enough for it.
    pub fn fit(m: usize, n: usize, slices: usize) -> Self {
        let large = kernels::TILE_LARGE;
        if m.div_ceil(large) * n.div_ceil(large) * slices >= ENOUGH_BLOCKS {
            Self {
                size: large,
                threads: kernels::TILE_LARGE_THREADS,
            }
        } else {
            Self {
                size: kernels::TILE_SMALL,
                threads: kernels::TILE_SMALL_THREADS,
            }
        }
    }

    /// For `[m, n]` sums over a long `k`, which is not 0: the tile and the length of a slice of k.
    pub fn sliced(m: usize, n: usize, k: usize, dtype: DType) -> (Self, usize) {
        let most = k.div_ceil(LEAST_SLICE);
        let tile = Self::fit(m, n, most);
        let blocks = m.div_ceil(tile.size) * n.div_ceil(tile.size);
        let slices = ENOUGH_BLOCKS.div_ceil(blocks.max(1)).min(most);
        // Whole steps, so that slices begin where 16-byte loads may.
        let step = kernels::TILE_STEP_BYTES / dtype.size();
        (tile, k.div_ceil(slices).next_multiple_of(step))
    }

    pub fn choose(self, large: &'static Kernel, small: &'static Kernel) -> &'static Kernel {
        if self.size == kernels::TILE_LARGE { large } else { small }
    }

    /// Blocks for `[m, n]` sums in so many slices, n fastest, and the ring of tiles of both operands.
    pub fn over(self, launch: Builder<'_>, m: usize, n: usize, slices: usize) -> Builder<'_> {
        let launch = launch.grid([n.div_ceil(self.size), m.div_ceil(self.size), slices]);
        let ring = kernels::TILE_STAGES * 2 * self.size * kernels::TILE_STEP_BYTES;
        launch.block(self.threads).dynamic_shared(ring)
    }
}
