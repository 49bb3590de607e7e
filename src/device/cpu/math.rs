//! Elementary functions that LLVM vectorises, and the run-time choice of instruction set.
//!
//! Every function is branch-free arithmetic on one value with explicit [`mul_add`](f32::mul_add) where two operations
//! are fused, so a vector of any width, and the scalar fallback, give the same bytes.

// Published coefficients are written as published, also where f32 rounds their last digits.
#![allow(clippy::excessive_precision)]

use crate::dtype::Real;

/// Runs `f` compiled for the best instruction set of this processor. Mark `f`, and closures in it, `#[inline(always)]`:
/// what is not inlined is compiled for the oldest processor.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        /// Runs `f` with the vectors that servers have had since 2017.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        macro_rules! has {
            ($($feature:tt)*) => { $(is_x86_feature_detected!($feature))&&* };
        }
        if has!("avx512f" "avx512bw" "avx512dq" "avx512vl" "avx2" "fma") {
            // SAFETY: the processor has these instructions.
            return unsafe { avx512(f) };
        }
        if has!("avx2" "fma") {
            // SAFETY: the processor has these instructions.
            return unsafe { avx2(f) };
        }
    }
    f()
}

/// Elementary functions of the types that the CPU computes in.
pub trait Elementary: Real {
    /// e^x; 0 below the range of the type, infinite above it, NaN for NaN.
    fn exp(self) -> Self;

    /// erfc(z) e^(z^2) for z >= 0, to the precision of the type.
    fn scaled_erfc(self) -> Self;

    /// 2^x for x below 128; 0 below the normal numbers of f32, NaN for NaN.
    fn exp2(self) -> Self;

    fn log2(self) -> Self;

    fn mul_add(self, a: Self, b: Self) -> Self;

    fn abs(self) -> Self;

    /// 1 / (1 + e^-x).
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let one = Self::from_f64(1.0);
        one / (one + (-self).exp())
    }

    /// x sigmoid(x).
    #[inline(always)]
    fn silu(self) -> Self {
        self * self.sigmoid()
    }

    /// d silu / dx.
    #[inline(always)]
    fn silu_slope(self) -> Self {
        let one = Self::from_f64(1.0);
        let s = self.sigmoid();
        s * self.mul_add(one - s, one)
    }

    /// The normal distribution function and e^(-x^2 / 2).
    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        let half = Self::from_f64(0.5);
        let z = self.abs() * Self::from_f64(std::f64::consts::FRAC_1_SQRT_2);
        let bell = (-(self * self) * half).exp();
        let tail = half * z.scaled_erfc() * bell;
        let above = Self::from_f64(1.0) - tail;
        (if self < Self::from_f64(0.0) { tail } else { above }, bell)
    }

    /// x times the normal distribution function: GELU, exact.
    #[inline(always)]
    fn gelu(self) -> Self {
        self * self.normal().0
    }

    /// GELU and its derivative.
    #[inline(always)]
    fn gelu_and_slope(self) -> (Self, Self) {
        const INV_SQRT_TAU: f64 = 0.398_942_280_401_432_7;
        let (below, bell) = self.normal();
        let density = bell * Self::from_f64(INV_SQRT_TAU);
        (self * below, self.mul_add(density, below))
    }
}

impl Elementary for f32 {
    #[inline(always)]
    fn exp(self) -> f32 {
        // n = round(x / ln 2) by adding 1.5 * 2^23, so that n also stands in the low bits of the sum.
        const ROUND: f32 = 12_582_912.0;
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let x = if self < -104.0 { -104.0 } else { self };
        let x = if x > 89.0 { 89.0 } else { x };
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
        let mut p = 1.987_569_1e-4_f32;
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0] {
            p = p.mul_add(r, c);
        }
        // 2^n in two factors: n reaches -150 and 128, which one exponent field cannot hold.
        let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let low = n >> 1;
        let power = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
        p * power(low) * power(n.wrapping_sub(low))
    }

    #[inline(always)]
    fn scaled_erfc(self) -> f32 {
        // The minimax polynomial of degree 8 for erfc(z) e^(z^2) / t, z = 2 / t - 2, up to z = 12: right to 4.4e-8.
        let t = 2.0 / (2.0 + self);
        let mut p = -5.936_415_4e-2_f32;
        for c in [
            2.860_154_6e-1,
            -4.901_825_5e-1,
            2.814_784_6e-1,
            -2.897_408_4e-2,
            2.036_793_1e-1,
            2.428_534_3e-1,
            2.824_096_2e-1,
            2.820_844_7e-1,
        ] {
            p = p.mul_add(t, c);
        }
        t * p
    }

    /// Polynomial of Cephes' `exp2f` (Moshier).
    #[inline(always)]
    fn exp2(self) -> f32 {
        // n = round(x) by adding 1.5 * 2^23; with 127 more, the low bits of the sum are the exponent field of 2^n.
        const ROUND: f32 = 12_582_912.0 + 127.0;
        let x = if self < -127.0 { -127.0 } else { self };
        let shifted = x + ROUND;
        let r = x - (shifted - ROUND);
        let mut p = 1.535_336_188_319_500e-4_f32;
        for c in [
            1.339_887_440_266_574e-3,
            9.618_437_357_674_640e-3,
            5.550_332_471_162_809e-2,
            2.402_264_791_363_012e-1,
            6.931_472_028_550_421e-1,
            1.0,
        ] {
            p = p.mul_add(r, c);
        }
        p * f32::from_bits(shifted.to_bits() << 23)
    }

    #[inline(always)]
    fn log2(self) -> f32 {
        f32::log2(self)
    }

    #[inline(always)]
    fn mul_add(self, a: f32, b: f32) -> f32 {
        f32::mul_add(self, a, b)
    }

    #[inline(always)]
    fn abs(self) -> f32 {
        f32::abs(self)
    }
}

/// f64 is for checks: precision matters, speed does not.
impl Elementary for f64 {
    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }

    #[inline(always)]
    fn scaled_erfc(self) -> f64 {
        let t = 2.0 / (2.0 + self);
        let ty = t.mul_add(4.0, -2.0);
        let (mut d, mut dd) = (0.0_f64, 0.0_f64);
        for c in ERFC_CHEBYSHEV[1..].iter().rev() {
            (d, dd) = (ty.mul_add(d, c - dd), d);
        }
        t * (0.5 * ty.mul_add(d, ERFC_CHEBYSHEV[0]) - dd).exp()
    }

    #[inline(always)]
    fn exp2(self) -> f64 {
        f64::exp2(self)
    }

    #[inline(always)]
    fn log2(self) -> f64 {
        f64::log2(self)
    }

    #[inline(always)]
    fn mul_add(self, a: f64, b: f64) -> f64 {
        f64::mul_add(self, a, b)
    }

    #[inline(always)]
    fn abs(self) -> f64 {
        f64::abs(self)
    }
}

/// ln(erfc(z) e^(z^2) / t) as a Chebyshev series in 4t - 2, t = 2 / (2 + z) (Press et al., Numerical Recipes, 3rd
/// edition, 6.2.2).
const ERFC_CHEBYSHEV: [f64; 28] = [
    -1.3026537197817094,
    6.419_697_923_564_902e-1,
    1.9476473204185836e-2,
    -9.561_514_786_808_63e-3,
    -9.46595344482036e-4,
    3.66839497852761e-4,
    4.2523324806907e-5,
    -2.0278578112534e-5,
    -1.624290004647e-6,
    1.303655835580e-6,
    1.5626441722e-8,
    -8.5238095915e-8,
    6.529054439e-9,
    5.059343495e-9,
    -9.91364156e-10,
    -2.27365122e-10,
    9.6467911e-11,
    2.394038e-12,
    -6.886027e-12,
    8.94487e-13,
    3.13092e-13,
    -1.12708e-13,
    3.81e-16,
    7.106e-15,
    -1.523e-15,
    -9.4e-17,
    1.21e-16,
    -2.8e-17,
];
