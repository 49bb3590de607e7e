//! What came of an evaluation: `evaluate/summary.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::ALL_IN_ONE;
use super::evaluate::{BASE, MERGED};
use super::plan::SELECTED;
use super::scorers::Column;
use super::sweep::{Strict, Sweep};
use crate::error::{Error, Result};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::scores::Scores;
use crate::evaluate::statistics::Estimate;

/// The means of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmScores {
    pub name: String,
    pub overall: Estimate,
    pub skills: BTreeMap<String, Estimate>,
    /// Of a benchmark's prompts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub families: BTreeMap<String, Estimate>,
}

/// Two arms on the prompts that both drew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    pub ours: String,
    pub theirs: String,
    #[serde(flatten)]
    pub comparison: Comparison,
}

/// `evaluate/summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub benchmark: String,
    pub judge: String,
    /// Of each skill, or of the file.
    pub prompts: usize,
    /// Of the file, because the pipeline asks for fewer.
    #[serde(default, skip_serializing_if = "is_none")]
    pub prompts_left_out: usize,
    pub seeds: u64,
    pub arms: Vec<ArmScores>,
    pub comparisons: Vec<Compared>,
    /// The same and other guidances, where the pipeline asks for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    /// What a judge with a stricter naming limit makes of the same pictures, of the benchmark `shapes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<Strict>,
    /// What the scorers of the run say of the images of this benchmark, one a column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scorers: Vec<Column>,
    /// The same of the other benchmarks of the run, each on prompts of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Summary>,
}

impl ArmScores {
    fn of((name, scores): &(String, Scores)) -> Self {
        let (skills, families) = (scores.skills.clone(), scores.families.clone());
        Self { name: name.clone(), overall: scores.overall, skills, families }
    }
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

impl Summary {
    /// The summary of a run's folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`].
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::file(path, e.to_string()))
    }

    /// This one and the other benchmarks.
    pub fn benchmarks(&self) -> impl Iterator<Item = &Summary> {
        std::iter::once(self).chain(&self.further)
    }

    /// How much better `ours` was than `theirs`.
    pub fn compared(&self, ours: &str, theirs: &str) -> Option<&Comparison> {
        let pair = |c: &&Compared| c.ours == ours && c.theirs == theirs;
        self.comparisons.iter().find(pair).map(|c| &c.comparison)
    }
}

/// Every arm less the base, and what else the paper and the selection are about.
pub(super) fn comparisons(all: &[(String, Scores)]) -> Result<Vec<Compared>> {
    let scores = |name: &str| all.iter().find(|(other, _)| other == name).map(|(_, scores)| scores);
    let selected = format!("{MERGED}{SELECTED}");
    let all_selected = format!("{ALL_IN_ONE}{SELECTED}");
    let mut pairs: Vec<(&str, &str)> = all[1..].iter().map(|(name, _)| (name.as_str(), BASE)).collect();
    pairs.extend([(MERGED, ALL_IN_ONE), (selected.as_str(), MERGED), (selected.as_str(), all_selected.as_str())]);
    let mut comparisons = Vec::new();
    for (ours, theirs) in pairs {
        if let (Some(a), Some(b)) = (scores(ours), scores(theirs)) {
            comparisons.push(Compared { ours: ours.into(), theirs: theirs.into(), comparison: Comparison::of(a, b)? });
        }
    }
    Ok(comparisons)
}

pub(super) fn means(all: &[(String, Scores)]) -> Vec<ArmScores> {
    all.iter().map(ArmScores::of).collect()
}
