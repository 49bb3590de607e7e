//! Two sets of pictures against each other, picture by picture.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::groups::{Groups, differences, numbered};
use super::scores::{Picture, Scores};
use super::statistics::Difference;
use crate::error::{Error, Result};

/// How much higher one set is than another, over the pictures that are in both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub overall: Difference,
    pub skills: BTreeMap<String, Difference>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub families: BTreeMap<String, Difference>,
    pub categories: BTreeMap<String, Difference>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub broad_categories: BTreeMap<String, Difference>,
    /// Pictures of each set that the other does not have.
    pub unpaired: [usize; 2],
}

impl Comparison {
    /// `ours` less `theirs`, pictures of the same prompt, seed and index in pairs, resampled with the seed of `ours`.
    ///
    /// # Errors
    /// [`Error::Failed`] if benchmark, judge or the questions to a prompt differ, if one set has two pictures of the same
    /// prompt, seed and index, or if no picture is in both.
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
        let [known, others] = [by_origin(&ours.pictures)?, by_origin(&theirs.pictures)?];
        let prompts = numbered(&ours.pictures);
        let mut groups = Groups::default();
        let mut pairs = 0;
        for picture in &ours.pictures {
            let Some(other) = others.get(&origin(picture)) else {
                continue;
            };
            if !same_questions(picture, other) {
                return Err(Error::Failed(format!(
                    "{} and {} were asked different questions; score both sets with the same version",
                    picture.file_name, other.file_name
                )));
            }
            groups.add(prompts[picture.prompt.as_str()], picture, Some(other));
            pairs += 1;
        }
        let seed = ours.seed;
        let none = "no picture of one set has the prompt, seed and index of one of the other";
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

fn origin(picture: &Picture) -> Origin<'_> {
    (&picture.prompt, picture.seed, picture.index)
}

fn by_origin(pictures: &[Picture]) -> Result<HashMap<Origin<'_>, &Picture>> {
    let mut known: HashMap<Origin, &Picture> = HashMap::new();
    for picture in pictures {
        if let Some(first) = known.insert(origin(picture), picture) {
            return Err(Error::Failed(format!(
                "{} and {} have the same prompt, seed and index; which belongs to a picture of the other set cannot be told",
                first.file_name, picture.file_name
            )));
        }
    }
    Ok(known)
}

fn same_questions(a: &Picture, b: &Picture) -> bool {
    let texts = |picture: &Picture| -> Vec<String> { picture.questions.iter().map(|q| q.question.clone()).collect() };
    texts(a) == texts(b)
}
