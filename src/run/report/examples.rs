//! The images that the page shows.

use std::collections::HashMap;

use super::Contents;
use crate::evaluate::scores::{ScoredImage, Scores};
use crate::run::evaluate::BASE;

/// An image of the base model and another model's from the same prompt and noise.
pub struct Pair<'a> {
    pub before: &'a ScoredImage,
    pub after: &'a ScoredImage,
}

impl Pair<'_> {
    pub fn gain(&self) -> f64 {
        self.after.score - self.before.score
    }

    /// The questions that are answered otherwise, each with the new answer.
    pub fn changed(&self) -> impl Iterator<Item = (&str, bool)> {
        let both = self.before.questions.iter().zip(&self.after.questions);
        both.filter(|(before, after)| before.counts != after.counts)
            .map(|(_, after)| (after.question.as_str(), after.counts))
    }
}

/// The pairs that gained most, and those that lost most, at most `count` of each and one a prompt.
pub fn extremes<'a>(contents: &'a Contents, arm: &str, count: usize) -> [Vec<Pair<'a>>; 2] {
    let (Some(base), Some(merged)) = (contents.scores.get(BASE), contents.scores.get(arm)) else {
        return [Vec::new(), Vec::new()];
    };
    let mut pairs = pairs(base, merged);
    pairs.sort_by(|a, b| b.gain().total_cmp(&a.gain()));
    let worse: Vec<Pair> = pairs.iter().rev().filter(|pair| pair.gain() < 0.0).map(copy).collect();
    let better = pairs.into_iter().filter(|pair| pair.gain() > 0.0).collect();
    [better, worse].map(|pairs| one_a_prompt(pairs, count))
}

fn copy<'a>(pair: &Pair<'a>) -> Pair<'a> {
    Pair { before: pair.before, after: pair.after }
}

fn pairs<'a>(base: &'a Scores, merged: &'a Scores) -> Vec<Pair<'a>> {
    let by_file: HashMap<&str, &ScoredImage> = base.images.iter().map(|p| (p.file_name.as_str(), p)).collect();
    let pair = |after: &'a ScoredImage| {
        let before = by_file.get(after.file_name.as_str())?;
        Some(Pair { before, after })
    };
    merged.images.iter().filter_map(pair).collect()
}

fn one_a_prompt(pairs: Vec<Pair>, count: usize) -> Vec<Pair> {
    let mut chosen: Vec<Pair> = Vec::new();
    for pair in pairs {
        let known = chosen.iter().any(|other| other.after.prompt == pair.after.prompt);
        if chosen.len() < count && !known {
            chosen.push(pair);
        }
    }
    chosen
}
