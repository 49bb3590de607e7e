//! Which metrics two sets of images have, by what is known of them.

use super::report::Metric;
use super::statistics::Statistics;
use super::{Features, cmmd, diversity, fid, kid};
use crate::error::Result;

/// Features of a set, or what a statistics file says of them.
pub enum Set {
    Features(Features),
    Statistics(Statistics),
}

impl Set {
    fn statistics(&self) -> Result<Statistics> {
        match self {
            Set::Features(features) => Statistics::of(features),
            Set::Statistics(statistics) => Ok(statistics.clone()),
        }
    }

    fn features(&self) -> Option<&Features> {
        match self {
            Set::Features(features) => Some(features),
            Set::Statistics(_) => None,
        }
    }
}

/// How KID draws.
#[derive(Clone, Copy, Debug)]
pub struct Subsets {
    pub count: usize,
    /// At most so many images.
    pub size: usize,
    pub seed: u64,
}

/// FID, and KID where both sets have features. `rule` names the network's input, or the file that the features are from.
///
/// # Errors
/// As [`fid::fid`] and [`kid::kid`].
pub fn distances(images: &Set, reference: &Set, rule: &str, subsets: Subsets) -> Result<Vec<Metric>> {
    let (a, b) = (images.statistics()?, reference.statistics()?);
    let n = [a.count, b.count];
    let mut value = Metric::new("fid", Some(fid::fid(&a, &b)?), n);
    let smallest = n.iter().flatten().min();
    if let Some(few) = smallest.filter(|&&n| n < fid::FEW) {
        value = value.note(format!("biased upward: {few} images; {} or more make FIDs comparable", fid::FEW));
    }
    if let Some(few) = smallest.filter(|&&n| n <= a.mu.len()) {
        value = value.note(format!("{few} images have a singular covariance in {} dimensions", a.mu.len()));
    }
    let mut metrics = vec![value];
    if let (Some(x), Some(y)) = (images.features(), reference.features()) {
        let size = subsets.size.min(x.len()).min(y.len());
        let drawn = kid::kid(x, y, subsets.count, size, subsets.seed)?;
        let mut value = Metric::new("kid", Some(drawn.mean), n);
        value.std = Some(drawn.std);
        value = value.note(format!("{} subsets of {size}", subsets.count));
        if size < kid::SUBSET_SIZE {
            value = value.note(format!("published values are over subsets of {}", kid::SUBSET_SIZE));
        }
        metrics.push(value);
    }
    for metric in &mut metrics {
        metric.rule = Some(rule.into());
    }
    Ok(metrics)
}

/// CMMD of CLIP embeddings; `rule` names the model.
///
/// # Errors
/// As [`cmmd::cmmd`].
pub fn embedding_distance(images: &Features, reference: &Features, rule: &str) -> Result<Metric> {
    let (a, b) = (images.len(), reference.len());
    let value = cmmd::cmmd(&images.normalized(), &reference.normalized())?;
    let mut metric = Metric::new("cmmd", Some(value), [Some(a), Some(b)]);
    metric.rule = Some(rule.into());
    if a.min(b) < cmmd::FEW {
        metric = metric.note(format!("uncertain: {} images; CMMD asks for {} or more", a.min(b), cmmd::FEW));
    }
    Ok(metric)
}

/// Diversity within prompts and of the whole set. `prompts[i]` is the prompt of image i; `None`: not known.
///
/// # Errors
/// As [`diversity::vendi`].
pub fn diversities(embeddings: &Features, prompts: Option<&[usize]>, rule: &str) -> Result<Vec<Metric>> {
    let n = [Some(embeddings.len()), None];
    let mut metrics = vec![
        Metric::new("pairwise_cosine_distance_of_the_set", diversity::pairwise_cosine_distance(embeddings), n),
        Metric::new("vendi_of_the_set", Some(diversity::vendi(embeddings)?), n),
    ];
    if let Some(prompts) = prompts {
        let mut groups: std::collections::BTreeMap<usize, Vec<usize>> = Default::default();
        for (image, prompt) in prompts.iter().enumerate() {
            groups.entry(*prompt).or_default().push(image);
        }
        let groups: Vec<Features> = groups.values().map(|of| embeddings.subset(of)).collect();
        let distances: Vec<Option<f64>> = groups.iter().map(diversity::pairwise_cosine_distance).collect();
        let effective = groups.iter().map(|group| match group.len() {
            1 => Ok(None),
            _ => diversity::vendi(group).map(Some),
        });
        let effective: Vec<Option<f64>> = effective.collect::<Result<_>>()?;
        for (name, values) in [("pairwise_cosine_distance", distances), ("vendi", effective)] {
            let used = values.iter().flatten().count();
            metrics.push(Metric::mean(name, &values, n).note(format!("over {used} prompts with two or more images")));
        }
    }
    for metric in &mut metrics {
        metric.rule = Some(rule.into());
    }
    Ok(metrics)
}
