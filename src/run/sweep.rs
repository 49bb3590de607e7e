//! Scores beside the main ones: at other guidances, and by a stricter judge.

use serde::{Deserialize, Serialize};

use super::evaluate::BASE;
use super::folder::RunFolder;
use super::summary::{ArmScores, Compared};
use crate::error::Result;
use crate::evaluate::comparison::Comparison;
use crate::evaluate::scores::Scores;
use crate::evaluate::statistics::Estimate;

/// Every arm at every guidance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// In rising order.
    pub guidances: Vec<f64>,
    /// In the order of the evaluation.
    pub arms: Vec<SweptArm>,
}

/// One arm at every guidance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweptArm {
    pub name: String,
    /// One for each guidance of [`Sweep::guidances`].
    pub overall: Vec<Estimate>,
    /// Where its mean is highest, of equal ones the lowest.
    pub best: f64,
    /// At its best guidance, less the base model at the base model's best; none for the base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against_best: Option<Comparison>,
}

/// The same images by a judge that names fewer things.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strict {
    pub arms: Vec<ArmScores>,
    pub comparisons: Vec<Compared>,
}

impl Strict {
    /// How much better `ours` was than `theirs`.
    pub fn compared(&self, ours: &str, theirs: &str) -> Option<&Comparison> {
        let pair = |c: &&Compared| c.ours == ours && c.theirs == theirs;
        self.comparisons.iter().find(pair).map(|c| &c.comparison)
    }
}

/// `ours` less `theirs` over the images of several finished runs, each with its own prompts and seed.
///
/// # Errors
/// [`crate::Error::Io`] and [`crate::Error::File`] for scores that are not there; as [`Comparison::of`].
pub fn pooled(runs: &[RunFolder], ours: &str, theirs: &str) -> Result<Comparison> {
    let all = |arm: &str| -> Result<Scores> {
        let mut images = Vec::new();
        let mut said = (String::new(), String::new(), 0);
        for run in runs {
            let scores = Scores::read(&run.path(format!("evaluate/{arm}/scores.json")))?;
            said = (scores.benchmark, scores.judge, scores.seed);
            images.extend(scores.images);
        }
        Scores::of(&said.0, &said.1, images, said.2)
    };
    Comparison::of(&all(ours)?, &all(theirs)?)
}

/// The first of the highest means: `max_by` would take the last.
fn best<'a>(own: &[(f64, &'a Scores)]) -> Option<(f64, &'a Scores)> {
    own.iter().copied().reduce(|a, b| if b.1.overall.mean > a.1.overall.mean { b } else { a })
}

impl Sweep {
    /// Of scores by arm and guidance; an arm that was not drawn at every guidance is left out.
    ///
    /// # Errors
    /// As [`Comparison::of`].
    pub fn of(all: &[(String, f64, Scores)]) -> Result<Self> {
        let of = |name: &str| {
            let mut own: Vec<(f64, &Scores)> =
                all.iter().filter(|(arm, ..)| arm == name).map(|(_, guidance, scores)| (*guidance, scores)).collect();
            own.sort_by(|a, b| a.0.total_cmp(&b.0));
            own.dedup_by(|a, b| a.0 == b.0);
            own
        };
        let base = of(BASE);
        let base_best = best(&base);
        let mut names: Vec<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
        names.dedup();
        let mut arms = Vec::new();
        for name in names {
            let own = of(name);
            let (Some((guidance, scores)), Some((_, base_scores))) = (best(&own), base_best) else { continue };
            if own.len() < base.len() {
                continue;
            }
            arms.push(SweptArm {
                name: name.into(),
                overall: own.iter().map(|(_, scores)| scores.overall).collect(),
                best: guidance,
                against_best: (name != BASE).then(|| Comparison::of(scores, base_scores)).transpose()?,
            });
        }
        Ok(Self { guidances: base.iter().map(|(guidance, _)| *guidance).collect(), arms })
    }
}
