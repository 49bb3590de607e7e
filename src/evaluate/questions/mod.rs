//! Question benchmarks: what is asked about the image of each prompt, and whether an answer counts.

pub mod dsg;
pub mod matching;
pub mod reply;
pub mod tifa;
pub mod writing;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::scores::Answered;

/// A prompt and the questions about its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub id: String,
    pub prompt: String,
    /// Where the prompt comes from, such as "paragraph" or "coco".
    pub family: Option<String>,
    pub questions: Vec<Question>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Of its item.
    pub id: usize,
    /// The questions of the item that this one depends on.
    pub parents: Vec<usize>,
    /// Such as "attribute - color" or "counting".
    pub category: String,
    pub text: String,
    /// What can be answered; nothing where it is yes or no.
    pub choices: Vec<String>,
    /// The right one of the choices.
    pub answer: String,
}

impl Question {
    /// What a reply to it says: see [`reply`]. None where it says nothing.
    pub fn read_reply(&self, text: &str) -> Option<String> {
        match self.choices.is_empty() {
            true => reply::yes_or_no(text),
            false => reply::choice(text),
        }
    }
}

/// What a "yes" depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dependencies {
    /// On a yes to each parent, as DSG's own scorer has it.
    Direct,
    /// On a yes to each ancestor, as DSG's paper has it; in a cycle, to each of its members.
    Cascading,
    /// On nothing.
    None,
}

impl Dependencies {
    pub const ALL: [Dependencies; 3] = [Dependencies::Direct, Dependencies::Cascading, Dependencies::None];

    pub fn name(self) -> &'static str {
        match self {
            Dependencies::Direct => "direct",
            Dependencies::Cascading => "cascading",
            Dependencies::None => "none",
        }
    }

    /// Which of an item's answers count. Parents that are missing, or the question itself, do not matter.
    pub fn counted(self, questions: &[Answered]) -> Vec<bool> {
        let by_id: BTreeMap<usize, &Answered> = questions.iter().map(|question| (question.id, question)).collect();
        let denied = |id: &usize| by_id.get(id).is_some_and(|parent| !parent.yes);
        let one = |question: &Answered| {
            let needed: BTreeSet<usize> = match self {
                Dependencies::None => BTreeSet::new(),
                Dependencies::Direct => question.parents.iter().copied().collect(),
                Dependencies::Cascading => ancestors(question.id, &by_id),
            };
            question.yes && !needed.iter().any(|id| *id != question.id && denied(id))
        };
        questions.iter().map(one).collect()
    }
}

fn ancestors(id: usize, by_id: &BTreeMap<usize, &Answered>) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![id];
    while let Some(id) = open.pop() {
        for parent in by_id.get(&id).into_iter().flat_map(|question| &question.parents) {
            if found.insert(*parent) {
                open.push(*parent);
            }
        }
    }
    found
}

/// An answer as DSG compares it: lower case, without blanks and `. , ? !` around it.
pub fn stripped(answer: &str) -> String {
    let around = |c: char| c.is_whitespace() || matches!(c, '.' | ',' | '?' | '!');
    answer.trim_matches(around).to_lowercase()
}

/// The mean over questions of whether they count; 0 without questions.
pub fn item_score(questions: &[Answered]) -> f64 {
    questions.iter().filter(|question| question.counts).count() as f64 / questions.len().max(1) as f64
}
