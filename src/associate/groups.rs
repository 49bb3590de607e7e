//! Groups of prompts that are hard to tell apart, and groups by chance.

use crate::error::{Error, Result};
use crate::metrics::Features;
use crate::metrics::features::dot;
use crate::random::{self, Stream};

/// Groups of `k`: for each seed prompt its k - 1 nearest by the cosine of the text embeddings (ties: the lower index). No
/// prompt is in two groups; seeds are drawn from the prompts that are left, and prompts that fill no group are left out.
///
/// # Errors
/// [`Error::Failed`] for groups of fewer than two.
pub fn hard(embeddings: &Features, k: usize, seed: u64) -> Result<Vec<Vec<usize>>> {
    let unit = embeddings.normalized();
    groups(unit.len(), k, seed, |first, left| {
        let mut near: Vec<usize> = left.to_vec();
        let cosine = |i: usize| dot(unit.row(first), unit.row(i));
        near.sort_by(|&a, &b| cosine(b).total_cmp(&cosine(a)).then(a.cmp(&b)));
        near
    })
}

/// Groups of `k` by chance, as a control.
///
/// # Errors
/// As [`hard`].
pub fn random(prompts: usize, k: usize, seed: u64) -> Result<Vec<Vec<usize>>> {
    groups(prompts, k, seed, |_, left| left.to_vec())
}

fn groups(n: usize, k: usize, seed: u64, order: impl Fn(usize, &[usize]) -> Vec<usize>) -> Result<Vec<Vec<usize>>> {
    if k < 2 {
        return Err(Error::Failed(format!("groups of {k}: expected at least 2")));
    }
    let mut left: Vec<usize> = (0..n).collect();
    for i in 0..n.saturating_sub(1) {
        let j = i + random::below(seed, Stream::Choice, i as u64, 0, (n - i) as u32) as usize;
        left.swap(i, j);
    }
    let mut groups = Vec::new();
    while left.len() >= k {
        let first = left.remove(0);
        let group: Vec<usize> = std::iter::once(first).chain(order(first, &left).into_iter().take(k - 1)).collect();
        left.retain(|i| !group.contains(i));
        groups.push(group);
    }
    Ok(groups)
}
