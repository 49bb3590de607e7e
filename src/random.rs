//! Random numbers by counting: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). What
//! is drawn for sample `index` at step `step` depends on (seed, stream, index, step) and nothing else, so that runs can
//! be resumed, batched and split at will.

use std::f32::consts::PI;

/// What a draw is for; draws of two streams are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Noise that is added to latents in training.
    Noise = 0,
    /// Training timesteps.
    Timestep = 1,
    /// The sample of a VAE's posterior.
    Posterior = 2,
    /// The order of a data set in an epoch.
    Shuffle = 3,
    /// Initial weights.
    Init = 4,
    /// The starting latents of an image.
    Latents = 5,
    /// Noise that a stochastic sampler adds.
    Sampler = 6,
    /// Which captions lose their text.
    Dropout = 7,
    /// Which experts or skills a prompt is drawn from.
    Choice = 8,
    /// Which prompts a resample is made of.
    Bootstrap = 9,
    /// Which images a subset of KID is made of.
    Subset = 10,
    /// Which alternative of a choice in a prompt an image gets.
    Wildcard = 11,
    /// The captions and images of the built-in world.
    Shapes = 32,
}

/// One block of Philox4x32-10.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

/// Block number `block` of the words of (seed, stream, index, step).
///
/// The four numbers do not fit into one key and counter, so a first block mixes seed, stream and step into the key.
pub(crate) fn words(seed: u64, stream: Stream, index: u64, step: u64, block: u32) -> impl Iterator<Item = [u32; 4]> {
    let low_high = |x: u64| [x as u32, (x >> 32) as u32];
    let ([step_low, step_high], [index_low, index_high]) = (low_high(step), low_high(index));
    let [k0, k1, ..] = philox([step_low, step_high, stream as u32, u32::MAX], low_high(seed));
    (block..).map(move |block| philox([block, index_low, index_high, 0], [k0, k1]))
}

/// `len` standard normal numbers (Box and Muller 1958), the same on every processor.
pub fn normals(seed: u64, stream: Stream, index: u64, step: u64, len: usize) -> Vec<f32> {
    let mut normals = Vec::with_capacity(len.next_multiple_of(4));
    for [a, b, c, d] in words(seed, stream, index, step, 0).take(len.div_ceil(4)) {
        normals.extend(box_muller(a, b));
        normals.extend(box_muller(c, d));
    }
    normals.truncate(len);
    normals
}

/// `len` numbers in [0, 1), multiples of 2^-24.
pub fn uniform(seed: u64, stream: Stream, index: u64, step: u64, len: usize) -> Vec<f32> {
    words(seed, stream, index, step, 0)
        .flatten()
        .take(len)
        .map(|word| (word >> 8) as f32 * (1.0 / 16_777_216.0))
        .collect()
}

/// A whole number in `0..n`, without bias (Lemire 2019, arXiv:1805.10941).
///
/// # Panics
/// If `n` is 0.
pub fn below(seed: u64, stream: Stream, index: u64, step: u64, n: u32) -> u32 {
    assert!(n > 0, "there is no number below 0");
    let threshold = n.wrapping_neg() % n;
    words(seed, stream, index, step, 0)
        .flatten()
        .map(|word| u64::from(word) * u64::from(n))
        .find(|product| *product as u32 >= threshold)
        .map(|product| (product >> 32) as u32)
        .expect("the words do not end before one is accepted")
}

/// Two normal numbers from two words: radius from the first, angle from the second.
fn box_muller(a: u32, b: u32) -> [f32; 2] {
    // (0, 1]: the logarithm is finite. 24 bits are exact in f32 and reach 5.77 sigma.
    let u = ((a >> 8) + 1) as f32 * (1.0 / 16_777_216.0);
    let radius = (-2.0 * log(u)).sqrt();
    let (sin, cos) = sin_cos_turns(b);
    [radius * cos, radius * sin]
}

/// The natural logarithm of a normal, positive number: Cephes' `logf`, in explicit fused multiply-adds so that every
/// device gives the same bits.
fn log(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126;
    let mut m = f32::from_bits(bits & 0x007F_FFFF | 0x3F00_0000);
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        m += m;
    }
    let f = m - 1.0;
    let polynomial = COEFFICIENTS.iter().skip(1).fold(COEFFICIENTS[0], |p, &c| p.mul_add(f, c));
    let square = f * f;
    let e = exponent as f32;
    // ln 2 in two parts, the first with few enough bits to be exact times an exponent.
    let tail = e.mul_add(-2.121_944_4e-4, polynomial * f * square);
    e.mul_add(0.693_359_4, (-0.5f32).mul_add(square, tail) + f)
}

/// Sine and cosine of `word / 2^32` turns. The nearest quarter is taken off exactly; what is left, at most an eighth
/// to either side, goes through Cephes' `sinf` and `cosf` polynomials.
fn sin_cos_turns(word: u32) -> (f32, f32) {
    // The nearest quarter turn, and the signed rest in [-1/8, 1/8) turns.
    let quarter = word.wrapping_add(1 << 29) >> 30;
    let rest = word.wrapping_sub(quarter << 30) as i32;
    let x = (rest >> 6) as f32 * (2.0 * PI / 67_108_864.0);
    let z = x * x;
    let s = (-1.951_529_6e-4f32).mul_add(z, 8.332_161e-3).mul_add(z, -1.666_665_5e-1);
    let sin = (s * z).mul_add(x, x);
    let c = 2.443_315_7e-5f32.mul_add(z, -1.388_731_6e-3).mul_add(z, 4.166_664_6e-2);
    let cos = (c * z).mul_add(z, (-0.5f32).mul_add(z, 1.0));
    match quarter & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of Random123's `kat_vectors`.
    #[test]
    fn philox_gives_the_known_answers() {
        let ones = u32::MAX;
        let known = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, answer) in known {
            assert_eq!(philox(counter, key), answer);
        }
    }

    #[test]
    fn polynomials_are_as_good_as_the_library() {
        for word in (0..=u32::MAX).step_by(65_521) {
            let u = ((word >> 8) + 1) as f32 / 16_777_216.0;
            let exact = f64::from(u).ln();
            assert!((f64::from(log(u)) - exact).abs() <= 1.5e-7 * exact.abs(), "log {u}");
            let angle = f64::from(word >> 6) * (64.0 / 4_294_967_296.0) * std::f64::consts::TAU;
            let (sin, cos) = sin_cos_turns(word & !63);
            assert!((f64::from(sin) - angle.sin()).abs() < 1.5e-7, "sin {angle}");
            assert!((f64::from(cos) - angle.cos()).abs() < 1.5e-7, "cos {angle}");
        }
    }

    #[test]
    fn normals_have_the_moments_of_the_normal_distribution() {
        let n = 1 << 20;
        let x = normals(7, Stream::Noise, 3, 11, n);
        let moment = |p: i32| x.iter().map(|&x| f64::from(x).powi(p)).sum::<f64>() / n as f64;
        for (p, expected, tolerance) in [(1, 0.0, 4e-3), (2, 1.0, 6e-3), (3, 0.0, 2e-2), (4, 3.0, 4e-2)] {
            assert!((moment(p) - expected).abs() < tolerance, "moment {p} is {}", moment(p));
        }
        assert_eq!(x[..10], normals(7, Stream::Noise, 3, 11, 10));
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = normals(1, Stream::Noise, 2, 3, 4);
        assert_ne!(base, normals(1 << 32 | 1, Stream::Noise, 2, 3, 4));
        assert_ne!(base, normals(1, Stream::Latents, 2, 3, 4));
        assert_ne!(base, normals(1, Stream::Noise, 1 << 32 | 2, 3, 4));
        assert_ne!(base, normals(1, Stream::Noise, 2, 1 << 32 | 3, 4));
    }

    #[test]
    fn whole_numbers_stay_below_and_reach_everything() {
        let mut seen = [0; 5];
        for index in 0..1000 {
            seen[below(0, Stream::Choice, index, 0, 5) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (150..250).contains(&count)), "{seen:?}");
        assert_eq!(below(0, Stream::Choice, 0, 0, 1), 0);
        assert!(uniform(0, Stream::Choice, 0, 0, 1000).iter().all(|x| (0.0..1.0).contains(x)));
    }
}
