//! The parts that a run consists of.

use serde::{Deserialize, Serialize};

/// A step of the method, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// New captions for each skill.
    Prompts,
    /// What is asked about pictures of further captions, where no file says it.
    Questions,
    /// What the generator draws of them.
    Images,
    /// The better ones of several pictures a prompt, where asked for.
    Select,
    /// A LoRA for each skill, and one for all of them.
    Experts,
    /// The experts as one LoRA.
    Merge,
    /// Pictures of held-out prompts, and their scores.
    Evaluate,
    /// One page that shows it all.
    Report,
}

impl Stage {
    pub const ALL: [Stage; 8] = [
        Stage::Prompts,
        Stage::Questions,
        Stage::Images,
        Stage::Select,
        Stage::Experts,
        Stage::Merge,
        Stage::Evaluate,
        Stage::Report,
    ];

    pub fn name(self) -> &'static str {
        let names = ["prompts", "questions", "images", "select", "experts", "merge", "evaluate", "report"];
        names[self as usize]
    }
}

/// What is done as a whole, or by a process of its own: a stage, or a stage for one skill.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    pub stage: Stage,
    /// A skill, or the name of what stands beside the skills; none where the stage is one piece.
    pub part: Option<String>,
}

impl Piece {
    pub fn new(stage: Stage, part: &str) -> Self {
        let part = Some(part.to_owned());
        Self { stage, part }
    }

    pub fn whole(stage: Stage) -> Self {
        Self { stage, part: None }
    }

    /// The name of its folder among the records: `experts-counting`.
    pub fn name(&self) -> String {
        match &self.part {
            Some(part) => format!("{}-{part}", self.stage.name()),
            None => self.stage.name().into(),
        }
    }

    /// How a user asks for it alone.
    pub fn arguments(&self) -> String {
        match &self.part {
            Some(part) => format!("--only {} --skill {part}", self.stage.name()),
            None => format!("--only {}", self.stage.name()),
        }
    }
}

impl std::fmt::Display for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.part {
            Some(part) => write!(f, "{} of {part}", self.stage.name()),
            None => f.write_str(self.stage.name()),
        }
    }
}
