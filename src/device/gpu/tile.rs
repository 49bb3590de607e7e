//! The tiles of `tile.h`: which size a product takes, and how the blocks lie.

use super::launch::{Launcher, Operand};
use super::pack;
use super::table::{Kernel, kernels};
use crate::dtype::DType;

/// Blocks that keep a GPU busy: sums over a long k go in so many slices, and in large tiles where there are as many of them. It
/// depends on the shape alone, and so do results.
pub(crate) const ENOUGH_BLOCKS: usize = 128;
/// Values of k that one slice of a weight's gradient adds up at least.
const LEAST_SLICE: usize = 512;

/// Multiprocessors, of an H100 about, over which blocks are spread in what [`Tile::split`] compares.
const MULTIPROCESSORS: usize = 128;
/// Cycles of a multiprocessor for a step of a block's tile in 16 bits, by its size: what the machine code takes of tensor cores
/// or shared memory. In float a step takes four times as long.
const TALL_STEP: f64 = 840.0;
const LARGE_STEP: f64 = 420.0;
const SMALL_STEP: f64 = 192.0;
/// Those for what is before and after the loop.
const TALL_AROUND: f64 = 3600.0;
const LARGE_AROUND: f64 = 2000.0;
const SMALL_AROUND: f64 = 1000.0;
/// Of a block of four warps that has a multiprocessor to itself: nothing hides what it waits for.
const ALONE: f64 = 4.0 / 3.0;
/// What another launch takes, the bytes a cycle that all multiprocessors together read from L2, and those of partial sums,
/// which are written and read.
const LAUNCH: f64 = 3400.0;
const L2_BYTES: f64 = 3500.0;
const PARTS_BYTES: f64 = 2000.0;
/// The share of the time that a product in slices must save at least, for its sums are made in another order.
const SAVED: f64 = 0.15;
pub(super) const MOST_SLICES: usize = 16;

/// What a block makes, and whether by a kernel that takes operands of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tile {
    rows: usize,
    columns: usize,
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
    pub const TALL: Self = Self {
        rows: kernels::TILE_TALL,
        columns: kernels::TILE_LARGE,
        threads: kernels::TILE_TALL_THREADS,
        any: false,
    };
    pub const LARGE: Self = Self {
        rows: kernels::TILE_LARGE,
        columns: kernels::TILE_LARGE,
        threads: kernels::TILE_LARGE_THREADS,
        any: false,
    };
    pub const SMALL: Self = Self {
        rows: kernels::TILE_SMALL,
        columns: kernels::TILE_SMALL,
        threads: kernels::TILE_SMALL_THREADS,
        any: false,
    };

    /// That of the kernels for compute capability 9.0 alone, which the cost model never takes.
    pub const HOPPER: Self =
        Self { rows: kernels::PIPE_ROWS, columns: kernels::PIPE_COLUMNS, threads: kernels::PIPE_THREADS, any: false };

    pub const ALL: [Self; 3] = [Self::TALL, Self::LARGE, Self::SMALL];

    /// For all these `[m, n]` sums in so many slices: the large tile where there is work enough for it.
    fn fit(sums: &[[usize; 2]], slices: usize) -> Self {
        match Self::LARGE.blocks_of_all(sums) * slices >= ENOUGH_BLOCKS {
            true => Self::LARGE,
            false => Self::SMALL,
        }
    }

    /// For all these `[m, n]` sums over a long `k`, which is not 0: the tile, and how many slices of k of the length [`Tile::slice`].
    pub fn sliced(sums: &[[usize; 2]], k: usize, dtype: DType) -> (Self, usize) {
        let most = k.div_ceil(LEAST_SLICE);
        let tile = Self::fit(sums, most);
        let slices = ENOUGH_BLOCKS.div_ceil(tile.blocks_of_all(sums).max(1)).min(most);
        (tile, k.div_ceil(Self::slice(k, slices, dtype)))
    }

    /// The length of a slice where there are to be so many of `k`.
    pub fn slice(k: usize, slices: usize, dtype: DType) -> usize {
        // Whole steps, so that slices begin where 16-byte loads may.
        k.div_ceil(slices).next_multiple_of(Self::step(dtype))
    }

    /// For `[m, n]` sums in each of `classes` of a product of so many steps of k, in one slice: the tile of these that takes
    /// the least time.
    pub fn whole(tiles: &[Self], [m, n]: [usize; 2], classes: usize, steps: usize, dtype: DType) -> Self {
        let cycles = |tile: &Self| tile.cycles([m, n], classes, steps, 1, dtype);
        // The first of equals.
        let best = tiles.iter().copied().min_by(|a, b| cycles(a).total_cmp(&cycles(b)));
        best.unwrap_or(Self::SMALL)
    }

    /// [`Tile::whole`], or in slices of k that are added up side by side, where tiles are few and k is long: the tile, and
    /// how many slices. One where slices would not save much. It depends on the sizes alone, and so do results.
    pub fn split(m: usize, n: usize, classes: usize, steps: usize, dtype: DType) -> (Self, usize) {
        let whole = Self::whole(&Self::ALL, [m, n], classes, steps, dtype);
        let mut best = (whole, 1, (1.0 - SAVED) * whole.cycles([m, n], classes, steps, 1, dtype));
        for tile in [Self::LARGE, Self::SMALL] {
            for slices in 2..=MOST_SLICES.min(steps) {
                let cycles = tile.cycles([m, n], classes, steps, slices, dtype);
                if cycles < best.2 {
                    best = (tile, slices, cycles);
                }
            }
        }
        (best.0, best.1)
    }

    /// What a product of so many slices takes, about: the multiprocessors' work, or what blocks read from L2.
    fn cycles(self, [m, n]: [usize; 2], classes: usize, steps: usize, slices: usize, dtype: DType) -> f64 {
        let (step, around, alone) = match self.rows {
            kernels::TILE_TALL => (TALL_STEP, TALL_AROUND, 1.0),
            kernels::TILE_LARGE => (LARGE_STEP, LARGE_AROUND, ALONE),
            _ => (SMALL_STEP, SMALL_AROUND, ALONE),
        };
        let step = if dtype == DType::F32 { 4.0 * step } else { step };
        let blocks = self.blocks(m, n) * classes * slices;
        let (rounds, steps) = (blocks.div_ceil(MULTIPROCESSORS), steps.div_ceil(slices));
        let alone = if rounds == 1 { alone } else { 1.0 };
        let work = rounds as f64 * alone * (steps as f64 * step + around);
        let read = (blocks * steps * self.step_bytes()) as f64 / L2_BYTES;
        let parts = match slices {
            1 => 0.0,
            _ => LAUNCH + (2 * 4 * classes * slices * m * n) as f64 / PARTS_BYTES,
        };
        work.max(read) + parts
    }

    /// Tiles of `[m, n]` sums.
    pub(super) fn blocks(self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows) * n.div_ceil(self.columns)
    }

    fn blocks_of_all(self, sums: &[[usize; 2]]) -> usize {
        sums.iter().map(|&[m, n]| self.blocks(m, n)).sum()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self { any: true, .. } => "any",
            Self::HOPPER => "hopper",
            Self { rows: kernels::TILE_TALL, .. } => "tall",
            Self { rows: kernels::TILE_LARGE, .. } => "large",
            _ => "small",
        }
    }

    /// This tile, or the small one instead of one whose kernel does not take the operands.
    pub fn without_maps(self) -> Self {
        if self == Self::HOPPER { Self::SMALL } else { self }
    }

    /// Bytes of both operands in a step.
    fn step_bytes(self) -> usize {
        (self.rows + self.columns) * kernels::TILE_STEP_BYTES
    }

    /// This tile where operands are what its kernel takes, else the one of the kernels that take any.
    pub fn if_fits(self, fits: bool) -> Self {
        match fits {
            true => self,
            false => Self { any: true, ..Self::SMALL },
        }
    }

    /// Of kernels for the large tile, the small one and operands of any kind.
    pub fn choose(self, [large, small, any]: [&'static Kernel; 3]) -> &'static Kernel {
        self.choose_of([large, large, small, any])
    }

    /// Of kernels for the tall tile, the large one, the small one and operands of any kind.
    pub fn choose_of(self, [tall, large, small, any]: [&'static Kernel; 4]) -> &'static Kernel {
        match self {
            Self { any: true, .. } => any,
            Self { rows: kernels::TILE_TALL, .. } => tall,
            Self { rows: kernels::TILE_LARGE, .. } => large,
            _ => small,
        }
    }

    pub fn choose_split(self, [large, small]: [&'static Kernel; 2]) -> &'static Kernel {
        if self.rows == kernels::TILE_LARGE { large } else { small }
    }

    /// Values of k in a step.
    pub fn step(dtype: DType) -> usize {
        kernels::TILE_STEP_BYTES / dtype.size()
    }

    /// Blocks for `[m, n]` sums in so many slices: all tiles along x, which has room for them; the sums along y.
    fn grid(self, sums: &[[usize; 2]], slices: usize) -> [usize; 3] {
        [sums.iter().map(|&[m, n]| self.blocks(m, n)).max().unwrap_or(0), sums.len(), slices]
    }

    /// With blocks for `[m, n]` sums in so many slices, and the ring of tiles of both operands.
    pub fn over(self, launch: Launcher<'_>, m: usize, n: usize, slices: usize) -> Launcher<'_> {
        self.over_all(launch, &[[m, n]], slices)
    }

    /// [`Tile::over`] of several sums, with as many blocks for each as the largest has tiles.
    pub fn over_all<'a>(self, launch: Launcher<'a>, sums: &[[usize; 2]], slices: usize) -> Launcher<'a> {
        let launch = launch.grid(self.grid(sums, slices));
        launch.block(self.threads).dynamic_shared(kernels::TILE_STAGES * self.step_bytes())
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
            let grid = Tile::fit(&[[m, n]], 1).grid(&[[m, n]], 1);
            assert!(fits(grid), "[{m}, {n}]: {grid:?}");
            assert_eq!(grid[0], m.div_ceil(128) * n.div_ceil(128));
        }
        assert!(!fits(Tile::fit(&[[1 << 40, 128]], 1).grid(&[[1 << 40, 128]], 1)));
    }

    /// Few pixels and many channels go in slices, many pixels do not, nor does a short k.
    #[test]
    fn long_sums_of_few_tiles_are_split() {
        let slices = |m, n, k: usize| {
            let (tile, slices) = Tile::split(m, n, 1, k / Tile::step(DType::Bf16), DType::Bf16);
            (tile.rows, slices)
        };
        // 3x3 convolutions of Stable Diffusion, one image of 512 pixels, then sixteen.
        let (size, of_64) = slices(64, 1280, 9 * 1280);
        assert!(size == kernels::TILE_SMALL && of_64 >= 4, "{size} {of_64}");
        let (size, of_256) = slices(256, 1280, 9 * 1280);
        assert!(size == kernels::TILE_LARGE && of_256 >= 4, "{size} {of_256}");
        assert_eq!(slices(16 * 4096, 320, 9 * 320), (kernels::TILE_TALL, 1));
        assert_eq!(slices(16 * 1024, 640, 9 * 640), (kernels::TILE_TALL, 1));
        assert_eq!(slices(77, 320, 320).1, 1);
        assert_eq!(slices(16, 1280, 320).1, 1);
        // Never more slices than steps.
        assert_eq!(Tile::split(1, 8, 1, 1, DType::F32).1, 1);
    }

    #[test]
    fn slices_of_long_sums_fit_into_a_grid() {
        for k in [1, 513, 1 << 20, 1 << 34] {
            let (tile, slices) = Tile::sliced(&[[4, 36]], k, DType::Bf16);
            let grid = tile.grid(&[[4, 36]], slices);
            assert!(fits(grid), "{k}: {grid:?}");
            assert_eq!(k.div_ceil(Tile::slice(k, slices, DType::Bf16)), slices, "{k}: none of them is empty");
        }
    }
}
