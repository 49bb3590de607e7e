//! The parts of TIES and DARE, on flat lists of equal length.
//!
//! Sources: Yadav et al. 2023, arXiv:2306.01708 (TIES: trim, elect signs, disjoint merge); Yu et al. 2023,
//! arXiv:2311.03099 (DARE: drop and rescale). Both per tensor, as peft applies them.

use sha2::{Digest, Sha256};

/// How the sign of an entry is elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MajoritySign {
    /// The sign of the sum.
    Total,
    /// The sign of most entries.
    Frequency,
}

/// Keeps the `floor(density * len)` entries of largest magnitude. Of equal magnitudes the earlier ones stay.
pub fn by_magnitude(x: &[f64], density: f64) -> Vec<f64> {
    let kept = (density * x.len() as f64) as usize;
    if kept >= x.len() {
        return x.to_vec();
    }
    let mut order: Vec<usize> = (0..x.len()).collect();
    if kept > 0 {
        order.select_nth_unstable_by(kept - 1, |&a, &b| x[b].abs().total_cmp(&x[a].abs()).then(a.cmp(&b)));
    }
    let mut pruned = vec![0.0; x.len()];
    for &at in &order[..kept] {
        pruned[at] = x[at];
    }
    pruned
}

/// Keeps each entry with probability `density` and divides by it, so that the expected value stays.
pub fn at_random(x: &[f64], density: f64, draws: &Draws) -> Vec<f64> {
    if density >= 1.0 {
        return x.to_vec();
    }
    let keep = |at: usize| draws.uniform(at as u64) < density;
    x.iter().enumerate().map(|(at, x)| if keep(at) { x / density } else { 0.0 }).collect()
}

/// Sums what agrees with the elected sign, divided by how many agree (a count, whatever the weights are).
pub fn disjoint_merge(pruned: &[Vec<f64>], weights: &[f64], majority: MajoritySign) -> Vec<f64> {
    (0..pruned[0].len())
        .map(|at| {
            let vote: f64 = pruned
                .iter()
                .map(|x| match majority {
                    MajoritySign::Total => x[at],
                    MajoritySign::Frequency if x[at] == 0.0 => 0.0,
                    MajoritySign::Frequency => x[at].signum(),
                })
                .sum();
            let sign = if vote >= 0.0 { 1.0 } else { -1.0 };
            let (mut sum, mut count) = (0.0, 0.0);
            for (x, weight) in pruned.iter().zip(weights) {
                if x[at] * sign > 0.0 {
                    sum += weight * x[at];
                    count += 1.0;
                }
            }
            sum / f64::max(1.0, count)
        })
        .collect()
}

/// The plain weighted sum.
pub fn weighted_sum(list: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; list[0].len()];
    for (x, weight) in list.iter().zip(weights) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += weight * x;
        }
    }
    sum
}

/// Uniform numbers that depend on the seed, the module and the values that they prune, not on the order of inputs.
pub struct Draws(u64);

impl Draws {
    /// `copy` tells equal inputs apart.
    pub fn new(seed: u64, place: &str, values: &[f64], copy: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        hash.update(copy.to_le_bytes());
        hash.update(place.as_bytes());
        hash.update(bytemuck::cast_slice::<f64, u8>(values));
        let digest = hash.finalize();
        Self(u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes")))
    }

    /// SplitMix64 at counter `index`, in [0, 1). Source: Steele, Lea & Flood 2014.
    fn uniform(&self, index: u64) -> f64 {
        let mut z = self.0.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
