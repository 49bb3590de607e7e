//! Two sets of images against each other, image by image.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::groups::{Groups, differences, numbered};
use super::scores::{ScoredImage, Scores};
use super::statistics::Difference;
use crate::error::{Error, Result};

/// How much higher one set is than another, over the images that are in both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub overall: Difference,
    pub skills: BTreeMap<String, Difference>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub families: BTreeMap<String, Difference>,
    pub categories: BTreeMap<String, Difference>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub broad_categories: BTreeMap<String, Difference>,
    /// Images of each set that the other does not have.
    pub unpaired: [usize; 2],
}

impl Comparison {
    /// `ours` less `theirs`, images of the same prompt, seed and index in pairs, resampled with the seed of `ours`.
    ///
    /// # Errors
    /// [`Error::Failed`] if benchmark, judge or the questions to a prompt differ, if one set has two images of the same
    /// prompt, seed and index, or if no image is in both.
    pub fn of(ours: &Scores, theirs: &Scores) -> Result<Comparison> {
        if (&ours.benchmark, &ours.judge) != (&theirs.benchmark, &theirs.judge) {
            return Err(Error::Failed(format!(
                "scores of {} by {} and of {} by {} do not compare; score both sets the same way",
                ours.benchmark, ours.judge, theirs.benchmark, theirs.judge
            )));
        }
        let reading = |scores: &Scores| scores.asked.as_ref().map(|asked| asked.dependencies.clone());
        if let (Some(ours), Some(theirs)) = (reading(ours), reading(theirs))
            && ours != theirs
        {
            return Err(Error::Failed(format!(
                "one set was scored with --dependencies {ours}, the other with {theirs}; score both the same way"
            )));
        }
        let [known, others] = [by_origin(&ours.images)?, by_origin(&theirs.images)?];
        let prompts = numbered(&ours.images);
        let mut groups = Groups::default();
        let mut pairs = 0;
        for image in &ours.images {
            let Some(other) = others.get(&origin(image)) else {
                continue;
            };
            if !same_questions(image, other) {
                return Err(Error::Failed(format!(
                    "{} and {} were asked different questions; score both sets with the same version",
                    image.file_name, other.file_name
                )));
            }
            groups.add(prompts[image.prompt.as_str()], image, Some(other));
            pairs += 1;
        }
        let seed = ours.seed;
        let none = "no image of one set has the prompt, seed and index of one of the other";
        Ok(Comparison {
            overall: groups.overall.difference(seed).ok_or_else(|| Error::Failed(none.into()))?,
            skills: differences(&groups.skills, seed),
            families: differences(&groups.families, seed),
            categories: differences(&groups.categories, seed),
            broad_categories: differences(&groups.broad_categories, seed),
            unpaired: [known.len() - pairs, others.len() - pairs],
        })
    }
}

type Origin<'a> = (&'a str, u64, u64);

fn origin(image: &ScoredImage) -> Origin<'_> {
    (&image.prompt, image.seed, image.index)
}

fn by_origin(images: &[ScoredImage]) -> Result<HashMap<Origin<'_>, &ScoredImage>> {
    let mut known: HashMap<Origin, &ScoredImage> = HashMap::new();
    for image in images {
        if let Some(first) = known.insert(origin(image), image) {
            return Err(Error::Failed(format!(
                "{} and {} have the same prompt, seed and index; which belongs to an image of the other set cannot be told",
                first.file_name, image.file_name
            )));
        }
    }
    Ok(known)
}

fn same_questions(a: &ScoredImage, b: &ScoredImage) -> bool {
    let texts = |image: &ScoredImage| -> Vec<String> { image.questions.iter().map(|q| q.question.clone()).collect() };
    texts(a) == texts(b)
}
