//! The numbers that kernels prove themselves on. They depend on the place alone.

use rayon::prelude::*;

use super::replica::{Lines, Part, Place};
use crate::device::gpu::choice::{Case, Operation};
use crate::tensor::Tensor;

/// Values other than 0 in a line of thin ones: with what is added no result exceeds 256, which every storage type holds.
const MOST_IN_A_LINE: usize = 240;
/// Those where a result is a product of two sums.
const MOST_IN_A_GATED_LINE: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// -1, 0 and 1, and few others than 0 in a line: sums are whole numbers, the same in any order.
    Thin,
    /// A single 1 in each line, elsewhere in each round: a result is one value of the other operand.
    OneHot(usize),
    /// Between -1 and 1.
    Random,
    /// The absolute values of those.
    Absolute,
}

impl Numbers {
    pub fn name(self) -> &'static str {
        match self {
            Self::Thin => "whole numbers",
            Self::OneHot(_) => "one-hot lines",
            Self::Random | Self::Absolute => "random numbers",
        }
    }

    /// Of the operand number `index` of `case`.
    pub fn fill(self, case: &Case, index: usize, place: &Place) -> Tensor {
        let value = |at: usize| match self {
            Self::Thin => thin(case, index, place, at),
            Self::OneHot(round) => one_hot(place, at, round),
            Self::Random => uniform(index, at),
            Self::Absolute => uniform(index, at).abs(),
        };
        let values: Vec<f32> = (0..place.len()).into_par_iter().map(value).collect();
        Tensor::from_reals(values, &place.shape, place.dtype)
    }
}

fn thin(case: &Case, index: usize, place: &Place, at: usize) -> f32 {
    let random = mixed(index, at);
    let Part::Lines { lines, .. } = place.part else {
        return (random % 3) as f32 - 1.0;
    };
    let (line, position, depth) = lines.locate(at, place.len());
    let most = if case.operation == Operation::MatmulGeglu { MOST_IN_A_GATED_LINE } else { MOST_IN_A_LINE };
    // Two pairs share the sum.
    let most = (most * depth / case.depth().max(1)).max(1);
    // One value in each of so many parts of the line.
    let part = depth.div_ceil(most);
    let there = mixed(index, line * depth + position / part) % part as u64;
    let sign = if random & 1 == 0 { 1.0 } else { -1.0 };
    if position as u64 % part as u64 == there { sign } else { 0.0 }
}

fn one_hot(place: &Place, at: usize, round: usize) -> f32 {
    match place.part {
        Part::Added => 0.0,
        // Neighbours differ, and fit into 8 bits.
        Part::Other => (at % 251) as f32 - 125.0,
        Part::Lines { lines, second } => {
            let (line, position, depth) = lines.locate(at, place.len());
            let count = place.len() / depth.max(1);
            let hot = line * (depth / count.max(1)).max(1) + round * (depth / 2 + 1);
            // A round has its ones in one of the pairs, where there are two.
            let here = second == (round % 3 == 2);
            if here && position == hot % depth { 1.0 } else { 0.0 }
        }
    }
}

impl Lines {
    /// The line of a value, its position there, and the length of a line, among so many values in all.
    fn locate(self, at: usize, len: usize) -> (usize, usize, usize) {
        match self {
            Self::Rows(depth) => (at / depth, at % depth, depth),
            Self::Columns(count) => (at % count, at / count, len / count),
        }
    }
}

fn uniform(index: usize, at: usize) -> f32 {
    (mixed(index, at) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
}

/// A hash of two numbers (the finalizer of SplitMix64, Steele, Lea and Flood 2014).
fn mixed(index: usize, at: usize) -> u64 {
    let mut x = ((index as u64) << 48 ^ at as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::replica::places;
    use super::*;
    use crate::dtype::DType;

    fn lines_of(case: &Case, numbers: Numbers) -> Vec<Vec<f32>> {
        let mut lines = Vec::new();
        for (index, place) in places(case).iter().enumerate() {
            let Part::Lines { lines: laid, .. } = place.part else { continue };
            let values = numbers.fill(case, index, place);
            let values = values.reals::<f32>();
            for (at, &value) in values.iter().enumerate() {
                let (line, _, _) = laid.locate(at, values.len());
                if lines.len() <= line {
                    lines.resize(line + 1, Vec::new());
                }
                lines[line].push(value);
            }
        }
        lines
    }

    fn cases() -> [Case; 4] {
        let case = |operation, sizes: &[usize]| Case {
            operation,
            dtype: DType::Bf16,
            sizes: sizes.into(),
            added: Vec::new(),
            any: false,
        };
        [
            case(Operation::MatmulNt, &[5, 7, 1000, 40]),
            case(Operation::MatmulTn, &[5, 7, 2000]),
            case(Operation::ConvForward, &[1, 6, 6, 64, 6, 6, 8, 3, 3, 1, 1, 1]),
            case(Operation::ConvDgrad, &[1, 6, 6, 8, 6, 6, 64, 3, 3, 1, 1, 1]),
        ]
    }

    #[test]
    fn lines_are_thin_and_not_empty() {
        for case in cases() {
            for line in lines_of(&case, Numbers::Thin) {
                assert_eq!(line.len(), case.depth(), "{case}");
                let values = line.iter().filter(|&&x| x != 0.0).count();
                assert!((150..=MOST_IN_A_LINE + 1).contains(&values), "{case}: {values}");
                assert!(line.iter().all(|&x| [-1.0, 0.0, 1.0].contains(&x)));
            }
        }
    }

    #[test]
    fn one_hot_lines_have_one_value() {
        for case in cases() {
            let mut seen = vec![false; case.depth()];
            for round in 0..3 {
                // The third is for the second pair.
                let two_pairs = case.operation == Operation::MatmulNt;
                for line in lines_of(&case, Numbers::OneHot(round)) {
                    let ones: Vec<usize> = (0..line.len()).filter(|&at| line[at] != 0.0).collect();
                    assert_eq!(ones.len(), usize::from(round < 2 || two_pairs), "{case} {round}");
                    ones.iter().for_each(|&at| seen[at] = true);
                }
            }
            assert!(seen.iter().filter(|&&seen| seen).count() > 5, "{case}");
        }
    }
}
