//! AdamW with moments in 8 bits a value, in blocks that have a scale each (Dettmers et al. 2022, arXiv:2110.02861,
//! section 2): a step reads a block, computes in f32, and rounds the block to the nearest codes of its new scale.

use std::sync::LazyLock;

use rayon::prelude::*;

use super::adamw::Rates;
use super::{AdamW, Optimizer, Parameters, Step, expect};
use crate::device::Device;
use crate::device::cpu::math::vectorized;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Values of one block, as in bitsandbytes.
pub const BLOCK: usize = 256;
/// Codes of a word.
const WORD: usize = size_of::<i64>();
/// Of each moment the codes, indices into [`code_values`], i64 `[n / 8]` of eight each, the first in the lowest byte, in whole
/// blocks: what is past the last value means 0; and the largest magnitude of each block, f32 `[n / 256]`.
const STATE: [&str; 4] = ["first_moment.codes", "first_moment.scales", "second_moment.codes", "second_moment.scales"];

/// AdamW with both moments in 8 bits. The update itself is made with their unrounded values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW8bit(pub AdamW);

impl Optimizer for AdamW8bit {
    fn initial(&self, values: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let blocks = values.len().div_ceil(BLOCK);
        let codes = |signed| {
            let zero = i64::from_le_bytes([nearest(code_values(signed), 0.0); WORD]);
            Tensor::new(vec![zero; blocks * BLOCK / WORD], &[blocks * BLOCK / WORD]).to(&values.device())
        };
        let scales = || values.new_zeros(&[blocks], DType::F32);
        Ok(STATE.into_iter().zip([codes(true)?, scales()?, codes(false)?, scales()?]).collect())
    }

    /// What the codes mean on a GPU, f32 `[2, 256]`.
    fn tables(&self, values: &Tensor) -> Result<Vec<Tensor>> {
        let meaning = Tensor::new([*code_values(true), *code_values(false)].concat(), &[2, 256]);
        Ok(vec![meaning.to(&values.device())?])
    }

    fn update(&self, parameters: &mut Parameters, mut step: Step<'_>) -> Result<()> {
        let Parameters { values, copy, state, tables } = parameters;
        let [(_, m_codes), (_, m_scales), (_, v_codes), (_, v_scales)] = &mut state[..] else {
            unreachable!("of AdamW8bit::initial")
        };
        let n = values.len();
        let blocks = n.div_ceil(BLOCK);
        let words = blocks * BLOCK / WORD;
        let lengths = [(&*m_codes, words), (m_scales, blocks), (v_codes, words), (v_scales, blocks)];
        expect("adamw_8bit", &lengths)?;
        expect("adamw_8bit", &[(copy, n), (step.gradient, n)])?;
        if values.device() == Device::Cpu {
            if let Some(update) = step.advance() {
                let rates = Rates::new(&self.0, &update);
                let moments = [(m_codes, m_scales), (v_codes, v_scales)].map(|(codes, scales)| {
                    let codes: &mut [u8] = bytemuck::cast_slice_mut(codes.data_mut::<i64>());
                    codes.par_chunks_exact_mut(BLOCK).zip(scales.data_mut::<f32>().par_iter_mut())
                });
                update_blocks(values.data_mut(), step.gradient.data(), moments, rates);
            }
            return Ok(());
        }
        let rates = self.0.rates(&mut step)?;
        let threads = kernels::MOMENT_THREADS;
        let launch = copy.kernel(&kernels::ADAMW_8BIT)?.grid([blocks.div_ceil(threads / 32), 1, 1]).block(threads);
        let launch = launch.update(values).update(m_codes).update(m_scales).update(v_codes).update(v_scales);
        let launch = launch.update(copy).input(step.gradient).input(&tables[0]).input(&rates).input(step.factor);
        self.0.numbers(launch.long(n)).launch()
    }
}

/// The values of a moment: `codes` and `scales` as states have them, `len` values; `signed` for the first of the two.
pub fn decoded(codes: &Tensor, scales: &Tensor, len: usize, signed: bool) -> Vec<f32> {
    let codes: &[u8] = bytemuck::cast_slice(codes.data::<i64>());
    let mut values = vec![0.0; codes.len()];
    let blocks = values.chunks_exact_mut(BLOCK).zip(codes.chunks_exact(BLOCK));
    for ((values, codes), &scale) in blocks.zip(scales.data::<f32>()) {
        decode(codes, scale, values, signed);
    }
    values.truncate(len);
    values
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

/// Updates on the CPU, a block a task; `moments` are codes and scale of each block.
fn update_blocks<'a>(
    values: &mut [f32],
    gradient: &[f32],
    [first, second]: [impl IndexedParallelIterator<Item = (&'a mut [u8], &'a mut f32)>; 2],
    rates: Rates,
) {
    values.par_chunks_mut(BLOCK).zip(gradient.par_chunks(BLOCK)).zip(first).zip(second).for_each(
        |(((values, gradient), (m_codes, m_scale)), (v_codes, v_scale))| {
            let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
            decode(m_codes, *m_scale, &mut m, true);
            decode(v_codes, *v_scale, &mut v, false);
            let len = values.len();
            let (m, v) = (&mut m[..len], &mut v[..len]);
            vectorized(
                #[inline(always)]
                || rates.apply(values, gradient, m, v),
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
