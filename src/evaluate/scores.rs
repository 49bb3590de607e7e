//! The scores of a set of images: one an image, and means per skill, per kind of question and in all. What
//! `scores.json` holds.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::comparison::Comparison;
use super::groups::{Groups, Samples, estimates, numbered};
use super::question_scores::Asked;
use super::statistics::Estimate;
use crate::error::{Error, Result};
use crate::formats::atomic;

/// One question about one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Counted from 1 in a prompt.
    pub id: usize,
    /// The questions that this one depends on.
    pub parents: Vec<usize>,
    /// Such as "attribute - color".
    pub category: String,
    pub question: String,
    /// What the judge said, where that is not known from the next field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Whether the judge said yes, or chose the right one of several choices.
    pub yes: bool,
    /// Whether it counts: yes, and nothing that it depends on was denied.
    pub counts: bool,
}

/// One image of the set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredImage {
    /// Relative to the folder that was scored.
    pub file_name: String,
    pub prompt: String,
    /// What the prompt is an example of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skill: Option<String>,
    /// The benchmark's item, and the family that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// What its noise was drawn from: the images of two sets are compared where prompt, seed and index agree.
    pub seed: u64,
    pub index: u64,
    pub score: f64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<Answered>,
}

/// A set of images and what came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// What was measured, and who answered: scores compare only where both agree.
    pub benchmark: String,
    pub judge: String,
    /// Of the resamples behind the intervals.
    pub seed: u64,
    /// The mean over images: DSG's item mean.
    pub overall: Estimate,
    pub skills: BTreeMap<String, Estimate>,
    /// The mean over the images of each prompt family of a benchmark.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub families: BTreeMap<String, Estimate>,
    /// The mean over questions; `None` for scores without questions.
    pub questions: Option<Estimate>,
    /// The same where every "yes" counts, whatever it depends on.
    pub questions_without_dependencies: Option<Estimate>,
    /// The mean over the questions of each category.
    pub categories: BTreeMap<String, Estimate>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub broad_categories: BTreeMap<String, Estimate>,
    /// What a benchmark with a file of questions says besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// With another set, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Comparison>,
    #[serde(rename = "pictures")]
    pub images: Vec<ScoredImage>,
}

impl Scores {
    /// `seed` is that of the resamples.
    ///
    /// # Errors
    /// [`Error::Failed`] without images, or for a score that is not a number.
    pub fn of(benchmark: &str, judge: &str, images: Vec<ScoredImage>, seed: u64) -> Result<Scores> {
        if let Some(image) = images.iter().find(|image| !image.score.is_finite()) {
            let message = format!("{}: its score is {}", image.file_name, image.score);
            return Err(Error::Failed(message));
        }
        let prompts = numbered(&images);
        let mut groups = Groups::default();
        let [mut questions, mut plain] = [Samples::default(), Samples::default()];
        for image in &images {
            let prompt = prompts[image.prompt.as_str()];
            groups.add(prompt, image, None);
            for question in &image.questions {
                questions.push(prompt, question.counts.into(), 0.0);
                plain.push(prompt, question.yes.into(), 0.0);
            }
        }
        let none = || Error::Failed("there are no images to score".into());
        Ok(Scores {
            benchmark: benchmark.into(),
            judge: judge.into(),
            seed,
            overall: groups.overall.estimate(seed).ok_or_else(none)?,
            skills: estimates(&groups.skills, seed),
            families: estimates(&groups.families, seed),
            questions: questions.estimate(seed),
            questions_without_dependencies: plain.estimate(seed),
            categories: estimates(&groups.categories, seed),
            broad_categories: estimates(&groups.broad_categories, seed),
            asked: None,
            against: None,
            images,
        })
    }

    /// # Errors
    /// [`Error::Io`]; [`Error::File`] if it is no file of [`Scores::write`].
    pub fn read(path: &Path) -> Result<Scores> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::file(path, format!("expected the scores that `selma eval` writes: {e}")))
    }

    /// The same scores give the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::write(path, |w| {
            serde_json::to_writer_pretty(&mut *w, self)?;
            writeln!(w)
        })
    }
}
