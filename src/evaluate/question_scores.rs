//! Scores from the answers to a benchmark's questions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::groups::{Samples, numbered};
use super::pairing::Paired;
use super::questions::matching::{Rule, choose};
use super::questions::{Dependencies, Item, Question, item_score};
use super::scores::{Answered, ScoredImage, Scores};
use super::statistics::Estimate;
use crate::error::{Error, Result};

/// What is to be known about the scores of a benchmark with questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The reading of dependencies behind all scores but those of `readings`: `direct`, `cascading` or `none`.
    pub dependencies: String,
    /// By reading, for questions that depend on each other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub readings: BTreeMap<String, Reading>,
    /// Sample standard deviation of the images' scores; none for a single image.
    pub deviation: Option<f64>,
    /// Where there are choices: the rule by which an answer was taken for one -> the share of answers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub matching: BTreeMap<String, f64>,
    /// Answers to yes-or-no questions that are neither; they count as no.
    pub not_understood: usize,
    /// Questions that were left out because the reply was empty or cut: no answer is not a no.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unanswered: usize,
    /// Items that were left out because they have no image.
    pub missing_items: usize,
    /// Images that were left out because no item has their prompt.
    #[serde(rename = "other_pictures")]
    pub other_images: usize,
}

/// One reading of the dependencies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Mean over images of the mean over their questions.
    pub item_mean: Estimate,
    /// Mean over all questions.
    pub question_mean: Estimate,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Scores images by the answers to the questions about each; none stands for no answer, and leaves the question out, and an
/// image without any answer too. `seed` is that of the intervals.
///
/// # Errors
/// As [`Scores::of`].
pub fn score(
    (benchmark, judge): (&str, &str),
    paired: &Paired<'_>,
    answers: &[Vec<Option<String>>],
    dependencies: Dependencies,
    seed: u64,
) -> Result<Scores> {
    let mut rules: BTreeMap<String, f64> = BTreeMap::new();
    let (mut not_understood, mut unanswered) = (0, 0);
    let mut images = Vec::new();
    for ((entry, item), answers) in paired.images.iter().zip(answers) {
        let answered = item.questions.iter().zip(answers).filter_map(|(question, answer)| {
            let Some(said) = answer.as_deref().and_then(|answer| question.read_reply(answer)) else {
                unanswered += 1;
                return None;
            };
            let (yes, rule) = judged(question, &said);
            match rule {
                Some(rule) => *rules.entry(rule.name().into()).or_default() += 1.0,
                None => not_understood += usize::from(!matches!(said.as_str(), "yes" | "no")),
            }
            Some(Answered {
                id: question.id,
                parents: question.parents.clone(),
                category: question.category.clone(),
                question: question.text.clone(),
                answer: answer.clone(),
                yes,
                counts: yes,
            })
        });
        let mut questions: Vec<Answered> = answered.collect();
        if questions.is_empty() && !item.questions.is_empty() {
            continue;
        }
        let counted = dependencies.counted(&questions);
        questions.iter_mut().zip(counted).for_each(|(question, counts)| question.counts = counts);
        images.push(ScoredImage {
            file_name: entry.file_name.clone(),
            prompt: item.prompt.clone(),
            skill: entry.skill.clone(),
            item_id: Some(item.id.clone()),
            family: item.family.clone(),
            seed: entry.seed,
            index: entry.index,
            score: item_score(&questions),
            questions,
        });
    }
    let asked: f64 = rules.values().sum();
    rules.values_mut().for_each(|count| *count /= asked);
    if images.is_empty() && unanswered > 0 {
        let message = format!(
            "no reply of {judge} to {unanswered} questions has an answer; look at its replies, or take another"
        );
        return Err(Error::Failed(message));
    }
    let mut scores = Scores::of(benchmark, judge, images, seed)?;
    scores.asked = Some(Asked {
        dependencies: dependencies.name().into(),
        readings: match depend(paired.images.iter().map(|(_, item)| *item)) {
            true => readings(&scores.images, seed),
            false => BTreeMap::new(),
        },
        deviation: deviation(&scores.images),
        matching: rules,
        not_understood,
        unanswered,
        missing_items: paired.missing.len(),
        other_images: paired.others,
    });
    Ok(scores)
}

/// Whether an answer is a yes, or means the right choice; then also by which rule it was taken for a choice.
fn judged(question: &Question, answer: &str) -> (bool, Option<Rule>) {
    if question.choices.is_empty() {
        return (answer == "yes", None);
    }
    let (choice, rule) = choose(answer, &question.choices);
    (question.choices[choice] == question.answer, Some(rule))
}

fn depend<'a>(mut items: impl Iterator<Item = &'a Item>) -> bool {
    items.any(|item| item.questions.iter().any(|question| !question.parents.is_empty()))
}

fn readings(images: &[ScoredImage], seed: u64) -> BTreeMap<String, Reading> {
    let prompts = numbered(images);
    let one = |dependencies: Dependencies| {
        let [mut items, mut questions] = [Samples::default(), Samples::default()];
        for image in images {
            let prompt = prompts[image.prompt.as_str()];
            let counted = dependencies.counted(&image.questions);
            let yes = counted.iter().filter(|counts| **counts).count();
            items.push(prompt, yes as f64 / counted.len().max(1) as f64, 0.0);
            counted.iter().for_each(|counts| questions.push(prompt, (*counts).into(), 0.0));
        }
        let reading = Reading { item_mean: items.estimate(seed)?, question_mean: questions.estimate(seed)? };
        Some((dependencies.name().to_owned(), reading))
    };
    Dependencies::ALL.into_iter().filter_map(one).collect()
}

fn deviation(images: &[ScoredImage]) -> Option<f64> {
    let count = images.len() as f64;
    let mean = images.iter().map(|image| image.score).sum::<f64>() / count;
    let squares: f64 = images.iter().map(|image| (image.score - mean).powi(2)).sum();
    (images.len() > 1).then(|| (squares / (count - 1.0)).sqrt())
}
