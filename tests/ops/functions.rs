//! The vectorised elementary functions against the standard library in f64.

use selma::device::cpu::math::{Elementary, vectorized};
use selma::device::cpu::sums::{LANES, sum_of};

use crate::support::values;

/// Every 4001st bit pattern between two values of one sign.
fn between(low: f32, high: f32) -> impl Iterator<Item = f32> {
    let (a, b) = (low.to_bits().min(high.to_bits()), low.to_bits().max(high.to_bits()));
    (a..=b).step_by(4001).map(f32::from_bits)
}

#[test]
fn exp_is_right_to_two_roundings() {
    for x in between(-87.3, -0.0).chain(between(0.0, 88.7)) {
        let expected = f64::from(x).exp();
        let got = f64::from(Elementary::exp(x));
        assert!((got / expected - 1.0).abs() < 1.5e-7, "exp({x}) = {got}, not {expected}");
    }
}

#[test]
fn exp_at_the_edges() {
    let exp = <f32 as Elementary>::exp;
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(-1e4), 0.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(1e4), f32::INFINITY);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert!(exp(f32::NAN).is_nan());
    // A subnormal result.
    assert!((f64::from(exp(-95.0)) / (-95.0_f64).exp() - 1.0).abs() < 1e-3);
}

/// The two types are evaluated with different lengths of the series, and f64 against known values.
#[test]
fn the_normal_distribution_function_is_exact() {
    for (x, expected) in [
        (0.0, 0.5),
        (1.0, 0.841_344_746_068_542_9),
        (-1.0, 0.158_655_253_931_457_05),
        (-3.0, 1.349_898_031_630_094_5e-3),
        (-8.0, 6.220_960_574_271_784e-16),
        (5.5, 0.999_999_981_010_437_5),
    ] {
        let got = f64::normal(x).0;
        assert!((got / expected - 1.0).abs() < 1e-14, "{x}: {got}, not {expected}");
    }
    for x in between(-9.0, -1e-5).chain(between(1e-5, 9.0)) {
        let expected = f64::from(x).normal().0;
        let got = f64::from(x.normal().0);
        // Below zero the error of the rounded exponent counts: half a unit in the last place of x^2 / 2.
        let tolerance = 6e-7 + 6e-8 * f64::from(x * x);
        assert!((got / expected - 1.0).abs() < tolerance, "{x}: {got}, not {expected}");
    }
}

/// One value alone and the same value among others, in whatever vector, have the same bits.
#[test]
fn vectors_and_scalars_agree_to_the_bit() {
    let xs: Vec<f32> = values(1003, 5).into_iter().map(|x| (x * 80.0) as f32).collect();
    let functions: [fn(f32) -> f32; 4] = [Elementary::exp, Elementary::silu, Elementary::gelu, Elementary::silu_slope];
    let together = vectorized(|| {
        let each = xs.iter().map(|&x| [Elementary::exp(x), x.silu(), x.gelu(), x.silu_slope()]);
        each.collect::<Vec<_>>()
    });
    for (&x, together) in xs.iter().zip(together) {
        for (f, got) in functions.iter().zip(together) {
            assert_eq!(f(x).to_bits(), got.to_bits(), "{x}");
        }
    }
}

#[test]
fn reductions_take_every_length() {
    for len in 0..3 * LANES {
        let xs: Vec<f32> = (1..=len).map(|i| i as f32).collect();
        assert_eq!(sum_of(&xs, |x| x), (len * (len + 1) / 2) as f32);
    }
}
