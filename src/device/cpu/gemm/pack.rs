//! How elements get into panels: lines that are contiguous over the depth are transposed in registers, steps that are
//! contiguous over the lines are cut up.

/// Lines that are turned at a time.
pub const LINES: usize = 16;

/// One call: element k of line i goes to `to + k * to_step + i`.
pub struct PackTransposed<T> {
    /// Where the lines are. Those at null are zero.
    pub from: [*const T; LINES],
    pub steps: usize,
    pub to: *mut T,
    pub to_step: usize,
    /// How many lines are written.
    pub lines: usize,
}

/// One call: a step of all lines goes to its place in each panel.
pub struct PackStrided<T> {
    pub from: *const T,
    pub lines: usize,
    /// Where the first panel is, and the lines in a panel: at most 32.
    pub to: *mut T,
    pub width: usize,
    /// The lines in the last panel, with those that are not in `lines` and become zero.
    pub last: usize,
    pub step: usize,
    pub steps: usize,
}

/// # Safety
/// The pointers must be valid for all that the fields say is read and written.
pub unsafe fn portable_strided<T: Copy + Default>(strided: &PackStrided<T>) {
    for first in (0..strided.lines).step_by(strided.width) {
        let known = strided.width.min(strided.lines - first);
        let row = if known < strided.width { strided.last } else { strided.width };
        for i in 0..row {
            // SAFETY: demanded of the caller.
            unsafe {
                let x = if i < known { *strided.from.add(first + i) } else { T::default() };
                *strided.to.add(first * strided.steps + strided.step * row + i) = x;
            }
        }
    }
}

/// # Safety
/// The pointers must be valid for all that the fields say is read and written.
pub unsafe fn portable<T: Copy + Default>(transposed: &PackTransposed<T>) {
    for (i, &from) in transposed.from[..transposed.lines].iter().enumerate() {
        for k in 0..transposed.steps {
            // SAFETY: demanded of the caller.
            unsafe {
                let x = if from.is_null() { T::default() } else { *from.add(k) };
                *transposed.to.add(k * transposed.to_step + i) = x;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{avx2_f32, avx512_f32, avx512_f32_strided};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// What a line without elements is read from.
    static ZEROS: [f32; 16] = [0.0; 16];

    /// Transposes 4x4 blocks. Before: `r[i][n]` = row i, column n. After: `r[4i + j][4q + l]` = row 4i + l, column 4q + j.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transpose_4x4<const N: usize>(mut r: [__m512; N]) -> [__m512; N] {
        let mut t = r;
        for i in 0..N / 2 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let double = |x: __m512| _mm512_castps_pd(x);
        for i in 0..N / 4 {
            let (a, b) = (double(t[4 * i]), double(t[4 * i + 1]));
            let (c, d) = (double(t[4 * i + 2]), double(t[4 * i + 3]));
            r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
            r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
            r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
            r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
        }
        r
    }

    /// Sixteen steps of eight lines, from `k` on.
    ///
    /// # Safety
    /// As for [`avx512_f32`].
    #[target_feature(enable = "avx512f")]
    unsafe fn eight_lines(transposed: &PackTransposed<f32>, k: usize, to: *mut f32) {
        let mut r = [_mm512_setzero_ps(); 8];
        for (r, from) in r.iter_mut().zip(transposed.from) {
            if !from.is_null() {
                // SAFETY: demanded of the caller.
                *r = unsafe { _mm512_loadu_ps(from.wrapping_add(k)) };
            }
        }
        let r = transpose_4x4(r);
        // Steps j and 4 + j, then 8 + j and 12 + j, of all lines.
        let halves = [_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15)];
        for j in 0..4 {
            for (i, half) in halves.into_iter().enumerate() {
                let (a, b) = (_mm512_castps_pd(r[j]), _mm512_castps_pd(r[4 + j]));
                let steps = _mm512_permutex2var_pd(a, half, b);
                let to = |step: usize| to.wrapping_add(step * transposed.to_step).cast::<f64>();
                // SAFETY: demanded of the caller.
                unsafe {
                    _mm256_storeu_pd(to(8 * i + j), _mm512_castpd512_pd256(steps));
                    _mm256_storeu_pd(to(8 * i + 4 + j), _mm512_extractf64x4_pd::<1>(steps));
                }
            }
        }
    }

    /// Eight steps of all lines, from `k` on.
    ///
    /// # Safety
    /// As for [`avx512_f32`].
    #[target_feature(enable = "avx512f")]
    unsafe fn eight_steps(transposed: &PackTransposed<f32>, k: usize, to: *mut f32, written: __mmask16) {
        let mut lines = [_mm256_setzero_pd(); LINES];
        for (line, from) in lines.iter_mut().zip(transposed.from) {
            if !from.is_null() {
                // SAFETY: demanded of the caller.
                *line = unsafe { _mm256_loadu_pd(from.wrapping_add(k).cast()) };
            }
        }
        let mut r = [_mm512_setzero_ps(); 8];
        for (i, r) in r.iter_mut().enumerate() {
            // Lines 0 to 3 and 8 to 11, each beside the one four further on.
            let first = i / 4 * 8 + i % 4;
            let pair = _mm512_insertf64x4::<1>(_mm512_castpd256_pd512(lines[first]), lines[first + 4]);
            *r = _mm512_castpd_ps(pair);
        }
        let r = transpose_4x4(r);
        for j in 0..4 {
            let early = _mm512_shuffle_f32x4::<0x88>(r[j], r[4 + j]);
            let late = _mm512_shuffle_f32x4::<0xdd>(r[j], r[4 + j]);
            // SAFETY: elements that the mask leaves out are not written.
            unsafe {
                _mm512_mask_storeu_ps(to.wrapping_add(j * transposed.to_step), written, early);
                _mm512_mask_storeu_ps(to.wrapping_add((4 + j) * transposed.to_step), written, late);
            }
        }
    }

    /// # Safety
    /// As for [`portable`]; the processor must have AVX-512.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512_f32(transposed: &PackTransposed<f32>) {
        let written = ((1u32 << transposed.lines) - 1) as __mmask16;
        for k in (0..transposed.steps).step_by(16) {
            let to = transposed.to.wrapping_add(k * transposed.to_step);
            // SAFETY: demanded of the caller.
            unsafe {
                if transposed.lines == 8 && transposed.steps - k >= 16 {
                    eight_lines(transposed, k, to);
                    continue;
                }
                if transposed.steps - k == 8 {
                    eight_steps(transposed, k, to, written);
                    continue;
                }
            }
            let steps = 16.min(transposed.steps - k);
            let read = ((1u32 << steps) - 1) as __mmask16;
            let mut r = [_mm512_setzero_ps(); 16];
            for (r, from) in r.iter_mut().zip(transposed.from) {
                // Not by an empty mask: a load from address 0 that is masked off takes the processor hundreds of cycles.
                let from = if from.is_null() { ZEROS.as_ptr() } else { from.wrapping_add(k) };
                // SAFETY: elements that the mask leaves out are not read.
                *r = unsafe { _mm512_maskz_loadu_ps(read, from) };
            }
            let r = transpose_4x4(r);
            let mut t = r;
            // Quarter q of r[4 i + j] is step 4 q + j of lines 4 i up to 4 i + 3.
            for j in 0..4 {
                let a = _mm512_shuffle_f32x4::<0x88>(r[j], r[4 + j]);
                let b = _mm512_shuffle_f32x4::<0xdd>(r[j], r[4 + j]);
                let c = _mm512_shuffle_f32x4::<0x88>(r[8 + j], r[12 + j]);
                let d = _mm512_shuffle_f32x4::<0xdd>(r[8 + j], r[12 + j]);
                t[j] = _mm512_shuffle_f32x4::<0x88>(a, c);
                t[4 + j] = _mm512_shuffle_f32x4::<0x88>(b, d);
                t[8 + j] = _mm512_shuffle_f32x4::<0xdd>(a, c);
                t[12 + j] = _mm512_shuffle_f32x4::<0xdd>(b, d);
            }
            for (i, t) in t.iter().enumerate() {
                if i < steps {
                    // SAFETY: elements that the mask leaves out are not written.
                    unsafe { _mm512_mask_storeu_ps(to.wrapping_add(i * transposed.to_step), written, *t) };
                }
            }
        }
    }

    /// # Safety
    /// As for [`portable_strided`]; the processor must have AVX-512.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512_f32_strided(strided: &PackStrided<f32>) {
        let mask = |lanes: usize| ((1u64 << lanes) - 1) as u32;
        let mut first = 0;
        while first < strided.lines {
            let known = strided.width.min(strided.lines - first);
            let row = if known < strided.width { strided.last } else { strided.width };
            let from = strided.from.wrapping_add(first);
            let to = strided.to.wrapping_add(first * strided.steps + strided.step * row);
            let (read, write) = (mask(known), mask(row));
            // SAFETY: elements that the masks leave out are neither read nor written.
            unsafe {
                _mm512_mask_storeu_ps(to, write as __mmask16, _mm512_maskz_loadu_ps(read as __mmask16, from));
                if row > 16 {
                    let (read, write) = ((read >> 16) as __mmask16, (write >> 16) as __mmask16);
                    let x = _mm512_maskz_loadu_ps(read, from.wrapping_add(16));
                    _mm512_mask_storeu_ps(to.wrapping_add(16), write, x);
                }
            }
            first += strided.width;
        }
    }

    /// # Safety
    /// As for [`portable`]; the processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub unsafe fn avx2_f32(transposed: &PackTransposed<f32>) {
        for first in (0..transposed.lines).step_by(8) {
            let lines = 8.min(transposed.lines - first);
            let whole = if lines == 8 { transposed.steps / 8 * 8 } else { 0 };
            for k in (0..whole).step_by(8) {
                let mut r = [_mm256_setzero_ps(); 8];
                for (r, from) in r.iter_mut().zip(&transposed.from[first..]) {
                    if !from.is_null() {
                        // SAFETY: demanded of the caller.
                        *r = unsafe { _mm256_loadu_ps(from.wrapping_add(k)) };
                    }
                }
                let mut t = r;
                for i in 0..4 {
                    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
                }
                let double = |x: __m256| _mm256_castps_pd(x);
                for i in 0..2 {
                    let (a, b) = (double(t[4 * i]), double(t[4 * i + 1]));
                    let (c, d) = (double(t[4 * i + 2]), double(t[4 * i + 3]));
                    r[4 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
                    r[4 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
                    r[4 * i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
                    r[4 * i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
                }
                for j in 0..4 {
                    let to = transposed.to.wrapping_add((k + j) * transposed.to_step + first);
                    // SAFETY: demanded of the caller.
                    unsafe {
                        _mm256_storeu_ps(to, _mm256_permute2f128_ps::<0x20>(r[j], r[4 + j]));
                        let to = to.wrapping_add(4 * transposed.to_step);
                        _mm256_storeu_ps(to, _mm256_permute2f128_ps::<0x31>(r[j], r[4 + j]));
                    }
                }
            }
            let mut rest = PackTransposed {
                from: [std::ptr::null(); LINES],
                steps: transposed.steps - whole,
                to: transposed.to.wrapping_add(whole * transposed.to_step + first),
                to_step: transposed.to_step,
                lines,
            };
            for i in 0..lines {
                let from = transposed.from[first + i];
                if !from.is_null() {
                    rest.from[i] = from.wrapping_add(whole);
                }
            }
            // SAFETY: demanded of the caller.
            unsafe { portable(&rest) };
        }
    }
}
