//! What each task is made from: the part that all stages have in common.

pub(super) use super::config::SELECTED;
use super::config::is_all_in_one;
use super::folder::{Inputs, Paths};
use super::{Run, Stage, Task};
use crate::error::Result;
use crate::formats::digest;
use crate::generate::Settings;

/// A task's inputs, and the paths of its outputs.
pub(super) struct StageInputs {
    pub inputs: Inputs,
    pub paths: Paths,
}

impl Run<'_> {
    /// One task of `stage` for each skill.
    pub(super) fn task_a_skill(&self, stage: Stage) -> Vec<Task> {
        self.config.skills.iter().map(|skill| Task::new(stage, &skill.id)).collect()
    }

    /// # Errors
    /// [`crate::Error::Failed`] where what `task` needs is not complete; those of the models and files that it reads.
    pub(super) fn stage_inputs(&self, task: &Task) -> Result<StageInputs> {
        let definition = task.stage.definition();
        let mut inputs = Inputs::from([("seed".to_string(), self.config.seed.to_string())]);
        for needed in definition.needs(self, task) {
            let hash = self.output_hash(&needed)?;
            match (needed.stage, definition.question_set()) {
                // Of the questions only some are for this task: other numbers of the rest do not make it anew.
                (Stage::Questions, Some(set)) => {
                    let own = task.part.is_none() || self.learns(task.part(), needed.part());
                    if own && set.prompts(self) > 0 {
                        let file = self.folder.path(set.file(needed.part()));
                        inputs.insert(needed.name(), digest::file(&file)?);
                    }
                }
                _ => drop(inputs.insert(needed.name(), hash)),
            }
        }
        let paths = definition.inputs(self, task, &mut inputs)?;
        Ok(StageInputs { inputs, paths })
    }

    /// The questions that the judge of `part` reads: of the skills that it learns, and where answers come from a file, of all
    /// that such a file may speak of.
    pub(super) fn questions_for(&self, part: &str) -> Vec<Task> {
        let mut asked = Stage::Questions.definition().tasks(self);
        let all = self.config.judge.answers.is_some();
        asked.retain(|task| all || self.learns(part, task.part()));
        asked
    }

    /// Whether the expert `part` learns `skill`.
    pub(super) fn learns(&self, part: &str, skill: &str) -> bool {
        is_all_in_one(part) || part.strip_suffix(SELECTED).unwrap_or(part) == skill
    }

    /// How images are generated, as an input.
    pub(super) fn generation_inputs(&self, settings: &Settings) -> String {
        format!("{} {}", serde_json::json!(settings), self.dtype.name())
    }
}

/// Adds an input.
pub(super) fn put(inputs: &mut Inputs, key: &str, value: String) {
    inputs.insert(key.into(), value);
}
