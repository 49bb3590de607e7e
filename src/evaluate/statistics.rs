//! Means with confidence intervals, and a test of two sets of images against each other, by the bootstrap over prompts:
//! the images of one prompt succeed and fail together, so that a prompt is drawn with all of them. Source: Efron &
//! Tibshirani 1993, "An Introduction to the Bootstrap", sections 13.3 (percentile interval) and 16.4 (test).

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::tensor::random::{self, Stream};

/// How often prompts are drawn anew.
pub const RESAMPLES: u64 = 10_000;
/// What the intervals hold.
pub const CONFIDENCE: f64 = 0.95;

/// A mean and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Of all values.
    pub mean: f64,
    /// The ends of the interval of [`CONFIDENCE`]; `None` for a single prompt, which says nothing about others.
    pub interval: Option<[f64; 2]>,
    pub values: usize,
    pub prompts: usize,
}

/// How much higher the first of two sets is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// First minus second: mean, interval, number of pairs and of prompts.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Two-sided: how often chance alone makes a difference of this size. `None` for a single prompt.
    pub p_value: Option<f64>,
}

/// The mean of `scores`, of which number `i` belongs to prompt `prompts[i]`. `None` without scores.
pub fn estimate(prompts: &[usize], scores: &[f64], seed: u64) -> Option<Estimate> {
    let clusters = clusters(prompts, scores);
    let mut means = resampled_means(&clusters, seed);
    means.sort_by(f64::total_cmp);
    let interval = (clusters.len() > 1).then(|| {
        let tail = (1.0 - CONFIDENCE) / 2.0;
        [quantile(&means, tail), quantile(&means, 1.0 - tail)]
    });
    (!scores.is_empty()).then(|| Estimate {
        mean: mean(clusters.iter()),
        interval,
        values: scores.len(),
        prompts: clusters.len(),
    })
}

/// The mean of `first[i] - second[i]`, scores of two images of prompt `prompts[i]` from the same seed. Under the null
/// hypothesis the differences are as they are, less their mean. `None` without pairs.
pub fn difference(prompts: &[usize], first: &[f64], second: &[f64], seed: u64) -> Option<Difference> {
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let estimate = estimate(prompts, &differences, seed)?;
    let p_value = (estimate.prompts > 1).then(|| {
        let means = resampled_means(&clusters(prompts, &differences), seed);
        // Scores are fractions: a resample often lies exactly as far off, and rounding must not decide.
        let reached = estimate.mean.abs() * (1.0 - 1e-9);
        let as_far = means.iter().filter(|&&m| (m - estimate.mean).abs() >= reached);
        (1 + as_far.count()) as f64 / (1 + RESAMPLES) as f64
    });
    Some(Difference { estimate, p_value })
}

/// All scores of one prompt.
#[derive(Default)]
struct Cluster {
    sum: f64,
    count: f64,
}

fn clusters(prompts: &[usize], scores: &[f64]) -> Vec<Cluster> {
    assert_eq!(prompts.len(), scores.len(), "a prompt for each score");
    let mut clusters: BTreeMap<usize, Cluster> = BTreeMap::new();
    for (&prompt, &score) in prompts.iter().zip(scores) {
        let cluster = clusters.entry(prompt).or_default();
        cluster.sum += score;
        cluster.count += 1.0;
    }
    clusters.into_values().collect()
}

fn mean<'a>(clusters: impl Iterator<Item = &'a Cluster>) -> f64 {
    let add = |(sum, count), cluster: &Cluster| (sum + cluster.sum, count + cluster.count);
    let (sum, count) = clusters.fold((0.0, 0.0), add);
    sum / count
}

/// The mean of as many prompts as there are, drawn with replacement, [`RESAMPLES`] times. Each resample has its own
/// random words: the result does not depend on the threads.
fn resampled_means(clusters: &[Cluster], seed: u64) -> Vec<f64> {
    if clusters.is_empty() {
        return Vec::new();
    }
    let resample = |index| {
        let words = random::words(seed, Stream::Bootstrap, index, 0, 0).flatten();
        let drawn = words.map(|word| &clusters[((u64::from(word) * clusters.len() as u64) >> 32) as usize]);
        mean(drawn.take(clusters.len()))
    };
    (0..RESAMPLES).into_par_iter().map(resample).collect()
}

/// Between the two nearest of `sorted`, in proportion.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let place = at * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (place - place.floor()) * (above - below)
}
