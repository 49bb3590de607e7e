//! The few integers that data order needs (shuffles, crops, flips), each a function of what it is for and nothing else,
//! so that a resumed run draws what the unbroken one would have drawn. Noise comes from [`crate::tensor::random`].

/// What is drawn; two purposes never share numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Shuffle = 1,
    Crop = 2,
    CaptionDropout = 3,
    Tags = 4,
    Caption = 5,
    Batches = 6,
    HeldOut = 7,
}

/// A stream of numbers for one (seed, purpose, a, b).
#[derive(Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub fn new(seed: u64, purpose: Purpose, a: u64, b: u64) -> Self {
        let keyed = [purpose as u64, a, b].iter().fold(mix(seed), |state, &word| mix(state ^ mix(word)));
        Self(keyed)
    }

    /// SplitMix64. Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        finish(self.0)
    }

    /// A number below `bound`, which is not 0. The bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(word: u64) -> u64 {
    finish(word.wrapping_add(GOLDEN))
}

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
