//! Scores sorted by what they are means of: all, each skill, each category of questions.

use std::collections::{BTreeMap, HashMap};

use super::scores::ScoredImage;
use super::statistics::{self, Difference, Estimate};

/// Scores, each with the number of its prompt, and the scores that they are compared with.
#[derive(Default)]
pub(super) struct Samples {
    prompts: Vec<usize>,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Samples {
    pub fn push(&mut self, prompt: usize, ours: f64, theirs: f64) {
        self.prompts.push(prompt);
        self.ours.push(ours);
        self.theirs.push(theirs);
    }

    pub fn estimate(&self, seed: u64) -> Option<Estimate> {
        statistics::estimate(&self.prompts, &self.ours, seed)
    }

    pub fn difference(&self, seed: u64) -> Option<Difference> {
        statistics::difference(&self.prompts, &self.ours, &self.theirs, seed)
    }
}

#[derive(Default)]
pub(super) struct Groups {
    pub overall: Samples,
    pub skills: BTreeMap<String, Samples>,
    pub families: BTreeMap<String, Samples>,
    pub categories: BTreeMap<String, Samples>,
    /// Categories of several kinds together: "attribute" for "attribute - color".
    pub broad_categories: BTreeMap<String, Samples>,
}

impl Groups {
    /// Adds an image, and what the other set has in its place.
    pub fn add(&mut self, prompt: usize, ours: &ScoredImage, theirs: Option<&ScoredImage>) {
        let score = theirs.map_or(0.0, |theirs| theirs.score);
        self.overall.push(prompt, ours.score, score);
        if let Some(skill) = &ours.skill {
            let samples = self.skills.entry(skill.clone()).or_default();
            samples.push(prompt, ours.score, score);
        }
        if let Some(family) = &ours.family {
            let samples = self.families.entry(family.clone()).or_default();
            samples.push(prompt, ours.score, score);
        }
        for (i, question) in ours.questions.iter().enumerate() {
            let other = theirs.and_then(|theirs| theirs.questions.get(i));
            let (counts, other) = (question.counts.into(), other.is_some_and(|other| other.counts).into());
            let samples = self.categories.entry(question.category.clone()).or_default();
            samples.push(prompt, counts, other);
            if let Some((broad, _)) = question.category.split_once(" - ") {
                let samples = self.broad_categories.entry(broad.into()).or_default();
                samples.push(prompt, counts, other);
            }
        }
    }
}

pub(super) fn estimates(groups: &BTreeMap<String, Samples>, seed: u64) -> BTreeMap<String, Estimate> {
    let estimate = |(name, samples): (&String, &Samples)| Some((name.clone(), samples.estimate(seed)?));
    groups.iter().filter_map(estimate).collect()
}

pub(super) fn differences(groups: &BTreeMap<String, Samples>, seed: u64) -> BTreeMap<String, Difference> {
    let difference = |(name, samples): (&String, &Samples)| Some((name.clone(), samples.difference(seed)?));
    groups.iter().filter_map(difference).collect()
}

/// A number for each different prompt, in the order in which they first appear.
pub(super) fn numbered(images: &[ScoredImage]) -> HashMap<&str, usize> {
    let mut numbers = HashMap::new();
    for image in images {
        let next = numbers.len();
        numbers.entry(image.prompt.as_str()).or_insert(next);
    }
    numbers
}
