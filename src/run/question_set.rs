//! Which images the questions of a run are about.

use super::Run;
use super::held_out::Purpose;

/// The images that are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuestionSet {
    /// Those of the prompts that are learnt from.
    Learnt,
    HeldOut(Purpose),
}

impl QuestionSet {
    pub const ALL: [QuestionSet; 3] =
        [QuestionSet::Learnt, QuestionSet::HeldOut(Purpose::Choice), QuestionSet::HeldOut(Purpose::Evaluation)];

    /// What is asked about in this run, in the order of the captions.
    pub fn of_run(run: &Run) -> Vec<Self> {
        Self::ALL.into_iter().filter(|set| set.prompts(run) > 0).collect()
    }

    /// How many prompts of each skill are asked about in this run; 0 where nobody asks, or a file has the questions.
    pub fn prompts(self, run: &Run) -> usize {
        let c = run.config;
        match self {
            _ if !c.evaluate.asks() => 0,
            // A scorer selects without questions.
            QuestionSet::Learnt if c.judge.by.is_some() => 0,
            QuestionSet::Learnt => c.select.as_ref().map_or(0, |_| c.prompts.count),
            QuestionSet::HeldOut(Purpose::Choice) => c.choose.as_ref().map_or(0, |choose| choose.prompts),
            QuestionSet::HeldOut(Purpose::Evaluation) => match c.evaluate.by_skill() {
                true => c.evaluate.prompts_a_skill(),
                false => 0,
            },
        }
    }

    /// Where the questions of a skill are.
    pub fn file(self, skill: &str) -> String {
        match self {
            QuestionSet::Learnt => format!("questions/{skill}.learnt.csv"),
            QuestionSet::HeldOut(Purpose::Choice) => format!("questions/{skill}.choice.csv"),
            QuestionSet::HeldOut(Purpose::Evaluation) => format!("questions/{skill}.csv"),
        }
    }
}
