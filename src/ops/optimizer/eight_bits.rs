//! AdamW's moments in 8 bits a value, in blocks that have a scale each (Dettmers et al. 2022, arXiv:2110.02861, section 2):
//! a step reads a block, computes in f32, and rounds the block to the nearest codes of its new scale.

use std::sync::LazyLock;

use rayon::prelude::*;

use super::{AdamW, Rates};
use crate::device::cpu::math::vectorized;

/// Values of one block, as in bitsandbytes.
pub const BLOCK: usize = 256;

/// The moment of so many values in 8 bits each.
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    /// Indices into [`code_values`], in whole blocks: what is past the last value is 0.
    pub codes: Vec<u8>,
    /// The largest magnitude of each block.
    pub scales: Vec<f32>,
    /// Whether values can be negative: the mean of gradients, not that of their squares.
    signed: bool,
    len: usize,
}

impl Codes {
    /// The codes nearest to `values`.
    pub fn new(values: &[f32], signed: bool) -> Self {
        let blocks = values.len().div_ceil(BLOCK);
        let (mut codes, mut scales) = (vec![0; blocks * BLOCK], vec![0.0; blocks]);
        for ((codes, scale), values) in codes.chunks_exact_mut(BLOCK).zip(&mut scales).zip(values.chunks(BLOCK)) {
            *scale = encode(values, codes, signed);
        }
        Self { codes, scales, signed, len: values.len() }
    }

    /// The codes, eight to a word, the first in its lowest byte.
    pub fn words(&self) -> Vec<i64> {
        let word = |codes: &[u8]| codes.iter().rev().fold(0, |word, &code| word << 8 | i64::from(code));
        self.codes.chunks_exact(8).map(word).collect()
    }

    /// Takes the codes from what [`Codes::words`] made.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn set_words(&mut self, words: &[i64]) {
        assert_eq!(words.len() * 8, self.codes.len(), "the words of other codes");
        for (codes, word) in self.codes.chunks_exact_mut(8).zip(words) {
            codes.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// What the codes mean.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.codes.len()];
        let blocks = values.chunks_exact_mut(BLOCK).zip(self.codes.chunks_exact(BLOCK));
        for ((values, codes), &scale) in blocks.zip(&self.scales) {
            decode(codes, scale, values, self.signed);
        }
        values.truncate(self.len);
        values
    }
}

/// What the 256 codes mean as shares of a block's scale, in ascending order: dynamic tree quantization (section 1.3 of the
/// paper; `create_dynamic_map` of bitsandbytes). The seven decades up to 1 are each divided evenly, twice as finely as
/// the one below it, down to 1e-6; beside them there are 0 and 1. Values without sign are divided twice as finely again.
pub fn code_values(signed: bool) -> &'static [f32; 256] {
    static SIGNED: LazyLock<[f32; 256]> = LazyLock::new(|| tree(true));
    static UNSIGNED: LazyLock<[f32; 256]> = LazyLock::new(|| tree(false));
    if signed { &SIGNED } else { &UNSIGNED }
}

fn tree(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0_f64, 1.0];
    for decade in 0..7 {
        let parts = if signed { 1 << decade } else { 2 << decade };
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
            let value = middle * 10_f64.powi(decade - 6);
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f64::total_cmp);
    std::array::from_fn(|code| values[code] as f32)
}

/// As [`super::adamw`], with both moments in 8 bits. The step itself is made with their unrounded values.
///
/// # Panics
/// If the lengths differ.
pub fn adamw_8bit(
    params: &mut [f32],
    gradients: &[f32],
    [first, second]: &mut [Codes; 2],
    settings: AdamW,
    step: u64,
    grad_scale: f64,
) {
    let len = params.len();
    assert!(
        [gradients.len(), first.len, second.len] == [len; 3],
        "AdamW: parameters, gradients and moments differ in length"
    );
    let rates = Rates::new(settings, step, grad_scale);
    let [first, second] = [first, second].map(|moment| {
        let blocks = moment.codes.par_chunks_exact_mut(BLOCK);
        blocks.zip(moment.scales.par_iter_mut())
    });
    params.par_chunks_mut(BLOCK).zip(gradients.par_chunks(BLOCK)).zip(first).zip(second).for_each(
        |(((params, gradients), (m_codes, m_scale)), (v_codes, v_scale))| {
            let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
            decode(m_codes, *m_scale, &mut m, true);
            decode(v_codes, *v_scale, &mut v, false);
            let len = params.len();
            let (m, v) = (&mut m[..len], &mut v[..len]);
            vectorized(
                #[inline(always)]
                || rates.apply(params, gradients, m, v),
            );
            *m_scale = encode(m, m_codes, true);
            *v_scale = encode(v, v_codes, false);
        },
    );
}

fn decode(codes: &[u8], scale: f32, values: &mut [f32], signed: bool) {
    let table = code_values(signed);
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = table[usize::from(code)] * scale;
    }
}

/// Codes of a block, and of zeros for what it lacks; returns its scale. A mean of squares above 0 does not become 0: the
/// step that divides by its root would be far too large.
fn encode(values: &[f32], codes: &mut [u8], signed: bool) -> f32 {
    let table = code_values(signed);
    let zero = nearest(table, 0.0);
    codes.fill(zero);
    let scale = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    if scale > 0.0 {
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = nearest(table, value / scale);
            if !signed && *code == zero && value > 0.0 {
                *code = zero + 1;
            }
        }
    }
    scale
}

/// The code whose value is nearest to `x`; of two the lower.
fn nearest(table: &[f32; 256], x: f32) -> u8 {
    let mut low = 0_u8;
    for step in [128, 64, 32, 16, 8, 4, 2, 1] {
        if table[usize::from(low + step)] <= x {
            low += step;
        }
    }
    let (below, above) = (table[usize::from(low)], table.get(usize::from(low) + 1));
    match above {
        Some(above) if above - x < x - below => low + 1,
        _ => low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format bit by bit, as figure 2 of the paper has it: a sign, zeros that count the exponent, a 1, and a
    /// fraction between 0.1 and 1, of which the middle of its interval is meant.
    fn meaning(bits: u32, width: u32) -> f64 {
        let exponent = width - 1 - bits.ilog2();
        let places = bits.ilog2();
        let fraction = f64::from(bits - (1 << places));
        let share = (fraction + 0.5) / f64::from(1 << places);
        10_f64.powi(-(exponent as i32)) * (0.1 + 0.9 * share)
    }

    #[test]
    fn codes_are_those_of_the_dynamic_tree() {
        // Without a sign, a 1 that only the last place has stands for 1, and no 1 at all for 0.
        let mut unsigned: Vec<f64> = (2..256).map(|bits| meaning(bits, 8)).chain([0.0, 1.0]).collect();
        // With one, the negative zero stands for 1.
        let positive = (1..128).map(|bits| meaning(bits, 7));
        let mut signed: Vec<f64> = positive.flat_map(|x| [x, -x]).chain([0.0, 1.0]).collect();
        for (expected, is_signed) in [(&mut unsigned, false), (&mut signed, true)] {
            expected.sort_by(f64::total_cmp);
            for (got, expected) in code_values(is_signed).iter().zip(&*expected) {
                assert!((f64::from(*got) - expected).abs() <= 1e-6 * expected.abs(), "{got}, expected {expected}");
            }
        }
    }

    #[test]
    fn every_value_gets_its_nearest_code() {
        for signed in [false, true] {
            let table = code_values(signed);
            for (code, &value) in (0..=255).zip(table) {
                assert_eq!(nearest(table, value), code);
            }
            for i in -20_000..=20_000 {
                let x = (i as f32 / 20_000.0).powi(3);
                let x = if signed { x } else { x.abs() };
                let distance = |code: u8| (table[usize::from(code)] - x).abs();
                let least = (0..=255).map(distance).fold(f32::INFINITY, f32::min);
                assert_eq!(distance(nearest(table, x)), least, "{x}");
            }
        }
    }
}
