//! The innermost loops: a few rows times one or two vectors of columns, held in registers over a block of the depth.
//!
//! Each element of the output is one chain of fused multiply-adds in the order of the depth, whatever the width of the
//! vectors, so every processor with FMA gives the same bytes. The portable kernel rounds products where the processor
//! has no FMA.

use std::mem::transmute;
use std::sync::LazyLock;

use super::pack::{self, PackStrided, PackTransposed};

/// One call of a kernel.
pub struct Tile<T> {
    /// 1 up to [`Kernel::rows`].
    pub rows: usize,
    /// 1 or [`VECTORS`].
    pub vectors: usize,
    pub depth: usize,
    /// Element (i, k) is at `a + i * a_row + k * a_step`.
    pub a: *const T,
    pub a_row: usize,
    pub a_step: usize,
    /// Vectors of step k are at `b + k * b_step`.
    pub b: *const T,
    pub b_step: usize,
    /// Row i of the output is at `c + i * c_row`.
    pub c: *mut T,
    pub c_row: usize,
    /// Columns that are written: all of the vectors, or fewer of the last one.
    pub columns: usize,
    /// What the product is added to: row i is at `plus + i * plus_row`. Null: nothing.
    pub plus: *const T,
    pub plus_row: usize,
}

/// Vectors of columns that a full panel has.
pub const VECTORS: usize = 2;

/// A kernel for one instruction set.
pub struct Kernel<T> {
    /// Elements in a vector.
    pub lanes: usize,
    /// Rows that the registers hold.
    pub rows: usize,
    run: unsafe fn(&Tile<T>),
    transposed: unsafe fn(&PackTransposed<T>),
    strided: unsafe fn(&PackStrided<T>),
}

impl<T> Kernel<T> {
    /// # Safety
    /// The pointers of `tile` must be valid for all that its fields say is read and written.
    pub unsafe fn run(&self, tile: &Tile<T>) {
        // SAFETY: passed on to the caller; the processor has the instructions, or this kernel was not chosen.
        unsafe { (self.run)(tile) }
    }

    /// # Safety
    /// The pointers of `transposed` must be valid for all that its fields say is read and written.
    pub unsafe fn pack_transposed(&self, transposed: &PackTransposed<T>) {
        // SAFETY: as for `run`.
        unsafe { (self.transposed)(transposed) }
    }

    /// # Safety
    /// The pointers of `strided` must be valid for all that its fields say is read and written.
    pub unsafe fn pack_strided(&self, strided: &PackStrided<T>) {
        // SAFETY: as for `run`.
        unsafe { (self.strided)(strided) }
    }
}

/// The types that have kernels.
pub trait Gemm: crate::dtype::Real {
    /// The best kernel for this processor.
    fn kernel() -> &'static Kernel<Self>;
}

/// What a pointer points to, as a `U`. Debug assertions put checks into `*p` and into every way to read through it; in
/// the innermost loop they cost two thirds of the speed, and a reference made like this has none.
///
/// # Safety
/// `p` must be valid for reading a `U`, and aligned.
#[inline(always)]
#[allow(clippy::transmute_ptr_to_ref, reason = "`&*p` is checked")]
unsafe fn at<'a, U, T>(p: *const T) -> &'a U {
    // SAFETY: demanded of the caller.
    unsafe { transmute::<*const U, &U>(p.cast()) }
}

/// A module with the kernel of one instruction set and type.
macro_rules! kernel {
    ($name:ident, $(#[$feature:meta])?, $t:ty, $lanes:expr, $rows:expr, $arms:ident, $transposed:path, $strided:path,
     $zero:path, $splat:path, $fma:path, $add:path, $part:path) => {
        mod $name {
            use super::*;

            pub const KERNEL: Kernel<$t> = Kernel { lanes: $lanes, rows: $rows, run, transposed: $transposed, strided: $strided };

            $(#[$feature])?
            unsafe fn run(tile: &Tile<$t>) {
                // SAFETY: `Kernel::run` demands it of its caller.
                unsafe { $arms!(tile, tile.rows, tile.vectors) }
            }

            $(#[$feature])?
            #[allow(clippy::needless_range_loop, reason = "plain indices unroll into registers")]
            #[allow(clippy::useless_transmute, clippy::missing_transmute_annotations, reason = "vectors may be arrays")]
            unsafe fn block<const R: usize, const V: usize, const PACKED: bool>(tile: &Tile<$t>) {
                // SAFETY: `Kernel::run` demands it of its caller.
                unsafe {
                    let (mut a, mut b) = (tile.a, tile.b);
                    let row = if PACKED { 1 } else { tile.a_row };
                    let mut sums = [[$zero(); V]; R];
                    for _ in 0..tile.depth {
                        let mut columns = [$zero(); V];
                        for v in 0..V {
                            columns[v] = transmute(*at::<[$t; $lanes], _>(b.wrapping_add(v * $lanes)));
                        }
                        for r in 0..R {
                            let x = $splat(*at::<$t, _>(a.wrapping_add(r.wrapping_mul(row))));
                            for v in 0..V {
                                sums[r][v] = $fma(x, columns[v], sums[r][v]);
                            }
                        }
                        a = a.wrapping_add(tile.a_step);
                        b = b.wrapping_add(tile.b_step);
                    }
                    if tile.columns < V * $lanes {
                        // A copy: what a pointer leads to would not be kept in registers.
                        let mut all = [[$zero(); V]; R];
                        for r in 0..R {
                            for v in 0..V {
                                all[r][v] = sums[r][v];
                            }
                        }
                        $part(tile, all.as_ptr().cast());
                        return;
                    }
                    for r in 0..R {
                        for v in 0..V {
                            let at_row = |row: usize| r.wrapping_mul(row).wrapping_add(v * $lanes);
                            let c = tile.c.wrapping_add(at_row(tile.c_row));
                            let sum = if tile.plus.is_null() {
                                sums[r][v]
                            } else {
                                let plus = tile.plus.wrapping_add(at_row(tile.plus_row));
                                $add(transmute(*at::<[$t; $lanes], _>(plus)), sums[r][v])
                            };
                            c.cast::<[$t; $lanes]>().write_unaligned(transmute(sum));
                        }
                    }
                }
            }
        }
    };
}

macro_rules! arms {
    ($tile:ident, $rows:expr, $vectors:expr; $($r:literal)*) => {
        match ($rows, $vectors, $tile.a_row == 1) {
            $(($r, 1, true) => block::<$r, 1, true>($tile),)*
            $(($r, 1, false) => block::<$r, 1, false>($tile),)*
            $(($r, VECTORS, true) => block::<$r, VECTORS, true>($tile),)*
            $(($r, VECTORS, false) => block::<$r, VECTORS, false>($tile),)*
            (rows, vectors, _) => unreachable!("no kernel has {rows} rows and {vectors} vectors"),
        }
    };
}
macro_rules! up_to_14 {
    ($tile:ident, $rows:expr, $vectors:expr) => { arms!($tile, $rows, $vectors; 1 2 3 4 5 6 7 8 9 10 11 12 13 14) };
}
macro_rules! up_to_6 {
    ($tile:ident, $rows:expr, $vectors:expr) => { arms!($tile, $rows, $vectors; 1 2 3 4 5 6) };
}
macro_rules! up_to_4 {
    ($tile:ident, $rows:expr, $vectors:expr) => { arms!($tile, $rows, $vectors; 1 2 3 4) };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
kernel!(avx512_f32, #[target_feature(enable = "avx512f")], f32, 16, 14, up_to_14, pack::avx512_f32, pack::avx512_f32_strided, _mm512_setzero_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, part::avx512_f32);
#[cfg(target_arch = "x86_64")]
kernel!(avx512_f64, #[target_feature(enable = "avx512f")], f64, 8, 14, up_to_14, pack::portable, pack::portable_strided, _mm512_setzero_pd, _mm512_set1_pd, _mm512_fmadd_pd, _mm512_add_pd, part::portable::<f64, 8>);
#[cfg(target_arch = "x86_64")]
kernel!(avx2_f32, #[target_feature(enable = "avx2,fma")], f32, 8, 6, up_to_6, pack::avx2_f32, pack::portable_strided, _mm256_setzero_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, part::portable::<f32, 8>);
#[cfg(target_arch = "x86_64")]
kernel!(avx2_f64, #[target_feature(enable = "avx2,fma")], f64, 4, 6, up_to_6, pack::portable, pack::portable_strided, _mm256_setzero_pd, _mm256_set1_pd, _mm256_fmadd_pd, _mm256_add_pd, part::portable::<f64, 4>);

kernel!(portable_f32, , f32, 4, 4, up_to_4, pack::portable, pack::portable_strided, portable::zero, portable::splat,
    portable::fma, portable::add, part::portable::<f32, 4>);
kernel!(portable_f64, , f64, 4, 4, up_to_4, pack::portable, pack::portable_strided, portable::zero, portable::splat,
    portable::fma, portable::add, part::portable::<f64, 4>);

/// Tiles whose last vector is written in part. `sums` has all rows, each of whole vectors.
mod part {
    #[cfg(target_arch = "x86_64")]
    use std::arch::x86_64::*;

    use super::Tile;
    use crate::dtype::Real;

    /// # Safety
    /// As for [`super::Kernel::run`], and `sums` must be valid for vectors of `L` lanes.
    pub unsafe fn portable<T: Real, const L: usize>(tile: &Tile<T>, sums: *const T) {
        for r in 0..tile.rows {
            for j in 0..tile.columns {
                // SAFETY: demanded of the caller.
                unsafe {
                    let sum = *sums.add(r * tile.vectors * L + j);
                    let sum = if tile.plus.is_null() { sum } else { *tile.plus.add(r * tile.plus_row + j) + sum };
                    *tile.c.add(r * tile.c_row + j) = sum;
                }
            }
        }
    }

    /// # Safety
    /// As for [`super::Kernel::run`], and `sums` must be valid; the processor must have AVX-512.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512_f32(tile: &Tile<f32>, sums: *const f32) {
        for r in 0..tile.rows {
            for first in (0..tile.columns).step_by(16) {
                let mask = ((1u32 << 16.min(tile.columns - first)) - 1) as __mmask16;
                // SAFETY: elements that the mask leaves out are neither read nor written.
                unsafe {
                    let mut sum = _mm512_loadu_ps(sums.add(r * tile.vectors * 16 + first));
                    if !tile.plus.is_null() {
                        let plus = tile.plus.wrapping_add(r * tile.plus_row + first);
                        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, plus), sum);
                    }
                    _mm512_mask_storeu_ps(tile.c.wrapping_add(r * tile.c_row + first), mask, sum);
                }
            }
        }
    }
}

/// Vectors of four as arrays, which compilers turn into what the target has.
mod portable {
    use crate::dtype::Real;

    #[inline(always)]
    pub fn zero<T: Real>() -> [T; 4] {
        [T::from_f64(0.0); 4]
    }

    #[inline(always)]
    pub fn splat<T: Real>(x: T) -> [T; 4] {
        [x; 4]
    }

    #[inline(always)]
    pub fn fma<T: Real + crate::device::cpu::math::Elementary>(x: [T; 4], y: [T; 4], z: [T; 4]) -> [T; 4] {
        // Without an instruction for it, `mul_add` is a call that costs fifty products.
        let fused = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        std::array::from_fn(|i| if fused { x[i].mul_add(y[i], z[i]) } else { x[i] * y[i] + z[i] })
    }

    #[inline(always)]
    pub fn add<T: Real>(x: [T; 4], y: [T; 4]) -> [T; 4] {
        std::array::from_fn(|i| x[i] + y[i])
    }
}

macro_rules! choose {
    ($t:ty, $avx512:ident, $avx2:ident, $portable:ident) => {
        impl Gemm for $t {
            fn kernel() -> &'static Kernel<Self> {
                static KERNELS: LazyLock<Vec<Kernel<$t>>> = LazyLock::new(<$t>::kernels);
                &KERNELS[0]
            }
        }

        impl Kernels for $t {
            fn kernels() -> Vec<Kernel<Self>> {
                let mut kernels = Vec::new();
                #[cfg(target_arch = "x86_64")]
                {
                    if is_x86_feature_detected!("avx512f") {
                        kernels.push($avx512::KERNEL);
                    }
                    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                        kernels.push($avx2::KERNEL);
                    }
                }
                kernels.push($portable::KERNEL);
                kernels
            }
        }
    };
}
choose!(f32, avx512_f32, avx2_f32, portable_f32);
choose!(f64, avx512_f64, avx2_f64, portable_f64);

/// The kernels of a type.
pub trait Kernels: Sized {
    /// Every kernel that this processor can run, the best first.
    fn kernels() -> Vec<Kernel<Self>>;
}
