//! The stages of a run, and the tasks that they consist of.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::estimate::{Costs, Effort};
use super::folder::{Inputs, Paths};
use super::question_set::QuestionSet;
use super::{ActiveTask, Run, evaluate, experts, images, merge, prompts, questions, report, select};
use crate::error::Result;
use crate::train::watcher::Watcher;

/// A step of the method, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// New captions for each skill.
    Prompts,
    /// Questions about images of further captions, where no file has them.
    Questions,
    /// Images of the prompts.
    Images,
    /// The best of several images a prompt, where `[select]` asks for it.
    Select,
    /// A LoRA for each skill, and one for all of them.
    Experts,
    /// The experts as one LoRA.
    Merge,
    /// Images of held-out prompts, and their scores.
    Evaluate,
    /// One page with all results.
    Report,
}

/// What a stage does: one file of `run/` each.
pub(super) trait Work {
    /// The stage's tasks in this run, in their order.
    fn tasks(&self, run: &Run) -> Vec<Task>;

    /// What must be complete before `task`.
    fn needs(&self, run: &Run, task: &Task) -> Vec<Task>;

    /// Of the questions that the run writes, those that this stage's images are judged by.
    fn question_set(&self) -> Option<QuestionSet> {
        None
    }

    /// Adds the settings and files that decide the results of `task` to `inputs`, which has the seed and what it needs, and
    /// returns what the task leaves.
    ///
    /// # Errors
    /// Those of the models and files that it reads.
    fn inputs(&self, run: &Run, task: &Task, inputs: &mut Inputs) -> Result<Paths>;

    /// What `task` takes, from nothing.
    ///
    /// # Errors
    /// Those of models and question files.
    fn estimate(&self, run: &Run, task: &Task, costs: &Costs) -> Result<Effort>;

    /// Does the tasks, and calls [`Run::finish`] after each.
    ///
    /// # Errors
    /// Whatever keeps a task from being done; [`crate::Error::Interrupted`].
    fn work(&self, run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()>;
}

impl Stage {
    /// The stage's name in commands and folders.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) fn definition(self) -> &'static dyn Work {
        match self {
            Stage::Prompts => &prompts::Prompts,
            Stage::Questions => &questions::Questions,
            Stage::Images => &images::Images,
            Stage::Select => &select::Select,
            Stage::Experts => &experts::Experts,
            Stage::Merge => &merge::Merge,
            Stage::Evaluate => &evaluate::Evaluate,
            Stage::Report => &report::Report,
        }
    }
}

/// What is done as a whole, or by a process of its own: a stage, or a stage for one skill.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    pub stage: Stage,
    /// A skill, or the name of what stands beside the skills; none where the stage is one task.
    pub part: Option<String>,
}

impl Task {
    /// The task of a stage for one part.
    pub fn new(stage: Stage, part: &str) -> Self {
        let part = Some(part.to_owned());
        Self { stage, part }
    }

    /// A stage as one task.
    pub fn whole(stage: Stage) -> Self {
        Self { stage, part: None }
    }

    /// The skill; empty where the stage is one task.
    pub fn part(&self) -> &str {
        self.part.as_deref().unwrap_or_default()
    }

    /// The name of its folder among the records: `experts-counting`.
    pub fn name(&self) -> String {
        match &self.part {
            Some(part) => format!("{}-{part}", self.stage.name()),
            None => self.stage.name(),
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

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.part {
            Some(part) => write!(f, "{} of {part}", self.stage.name()),
            None => f.write_str(&self.stage.name()),
        }
    }
}
