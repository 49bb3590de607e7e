//! The tiles of `tile.h`: which size a product takes, and how the blocks lie.

use super::launch::{Launcher, Operand};
use super::pack;
use super::table::{Kernel, kernels};
use crate::dtype::DType;

/// Blocks that keep a GPU busy: with fewer large tiles, small ones are taken. It depends on the shape alone, and so do
/// results.
const ENOUGH_BLOCKS: usize = 128;
/// Values of k that one slice of a weight's gradient adds up at least.
const LEAST_SLICE: usize = 512;

/// What a block makes, and whether by a kernel that takes operands of any kind.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    size: usize,
    threads: usize,
    any: bool,
}

/// Whether rows of these widths are whole chunks of 16 bytes, and all memory begins at one: what the large and the small
/// tile's kernels take.
pub(crate) fn in_chunks(dtype: DType, widths: &[usize], memory: &[&dyn Operand]) -> bool {
    let aligned = memory.iter().filter_map(|x| x.span()).all(|span| span.address.is_multiple_of(16));
    aligned && widths.iter().all(|width| width.is_multiple_of(pack(dtype)))
}

impl Tile {
    /// For `[m, n]` sums in so many slices: the large tile where there is work enough for it.
    pub fn fit(m: usize, n: usize, slices: usize) -> Self {
        let large = kernels::TILE_LARGE;
        if m.div_ceil(large) * n.div_ceil(large) * slices >= ENOUGH_BLOCKS {
            Self { size: large, threads: kernels::TILE_LARGE_THREADS, any: false }
        } else {
            Self { size: kernels::TILE_SMALL, threads: kernels::TILE_SMALL_THREADS, any: false }
        }
    }

    /// For `[m, n]` sums over a long `k`, which is not 0: the tile and the length of a slice of k.
    pub fn sliced(m: usize, n: usize, k: usize, dtype: DType) -> (Self, usize) {
        let most = k.div_ceil(LEAST_SLICE);
        let tile = Self::fit(m, n, most);
        let blocks = m.div_ceil(tile.size) * n.div_ceil(tile.size);
        let slices = ENOUGH_BLOCKS.div_ceil(blocks.max(1)).min(most);
        // Whole steps, so that slices begin where 16-byte loads may.
        (tile, k.div_ceil(slices).next_multiple_of(Self::step(dtype)))
    }

    /// This tile where operands are what its kernel takes, else the one of the kernels that take any.
    pub fn if_fits(self, fits: bool) -> Self {
        match fits {
            true => self,
            false => Self { size: kernels::TILE_SMALL, threads: kernels::TILE_SMALL_THREADS, any: true },
        }
    }

    pub fn choose(self, [large, small, any]: [&'static Kernel; 3]) -> &'static Kernel {
        match self {
            Self { any: true, .. } => any,
            Self { size: kernels::TILE_LARGE, .. } => large,
            _ => small,
        }
    }

    /// Values of k in a step.
    pub fn step(dtype: DType) -> usize {
        kernels::TILE_STEP_BYTES / dtype.size()
    }

    /// Blocks for `[m, n]` sums in so many slices: all tiles along x, which has room for them.
    fn grid(self, m: usize, n: usize, slices: usize) -> [usize; 3] {
        [m.div_ceil(self.size) * n.div_ceil(self.size), 1, slices]
    }

    /// With blocks for `[m, n]` sums in so many slices, and the ring of tiles of both operands.
    pub fn over(self, launch: Launcher<'_>, m: usize, n: usize, slices: usize) -> Launcher<'_> {
        let launch = launch.grid(self.grid(m, n, slices));
        let ring = kernels::TILE_STAGES * 2 * self.size * kernels::TILE_STEP_BYTES;
        launch.block(self.threads).dynamic_shared(ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::launch::MOST_BLOCKS;

    fn fits(grid: [usize; 3]) -> bool {
        grid.iter().zip(MOST_BLOCKS).all(|(blocks, most)| (1..=most).contains(blocks))
    }

    #[test]
    fn millions_of_rows_fit_into_a_grid() {
        // One image of 3072 x 3072 in the VAE, a batch of 64 in SDXL's first attention, and many rows of one column.
        for [m, n] in [[3072 * 3072, 128], [64 * 128 * 128 * 64, 640], [65535 * 128 + 1, 1], [1 << 36, 128]] {
            let grid = Tile::fit(m, n, 1).grid(m, n, 1);
            assert!(fits(grid), "[{m}, {n}]: {grid:?}");
            assert_eq!(grid[0], m.div_ceil(128) * n.div_ceil(128));
        }
        assert!(!fits(Tile::fit(1 << 40, 128, 1).grid(1 << 40, 128, 1)));
    }

    #[test]
    fn slices_of_long_sums_fit_into_a_grid() {
        for k in [1, 513, 1 << 20, 1 << 34] {
            let (tile, slice) = Tile::sliced(4, 36, k, DType::Bf16);
            let grid = tile.grid(4, 36, k.div_ceil(slice));
            assert!(fits(grid), "{k}: {grid:?}");
        }
    }
}
