//! Stage `questions`: captions of each skill that no expert learns from, and DSG's questions about their pictures.

use super::Run;
use super::held_out::Purpose;
use super::prompts::{Stoppable, captions, source};
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::evaluate::questions::dsg::{self, Annotated};
use crate::evaluate::questions::writing;
use crate::train::watcher::Watcher;

/// Where the questions of a skill are.
pub(super) fn file(skill: &str, purpose: Purpose) -> String {
    match purpose {
        Purpose::Evaluation => format!("questions/{skill}.csv"),
        Purpose::Choice => format!("questions/{skill}.choice.csv"),
    }
}

/// Writes `questions/SKILL.csv`, and where checkpoints are chosen `questions/SKILL.choice.csv` of other captions. The
/// captions are those that the writer goes on with after those of the stage `prompts`.
///
/// # Errors
/// Those of the writer; [`Error::Failed`] where it writes no question; [`Error::Interrupted`].
pub(super) fn write(run: &Run, skill: &str, watcher: &mut dyn Watcher) -> Result<()> {
    let p = run.pipeline;
    let chosen_by = p.choose.as_ref().map_or(0, |choose| choose.prompts);
    let learnt = p.prompts.count;
    let all = captions(run, skill, learnt + chosen_by + p.evaluate.prompts_a_skill(), watcher)?;
    let held_out: Vec<Prompt> = all[learnt..].iter().map(Prompt::new).collect();
    let mut items = writing::items(&held_out, skill)?;
    let first: Vec<String> = items.iter().take(chosen_by).map(|item| item.id.clone()).collect();
    let counts = match source(run, &format!("{skill}.questions.replies.jsonl"), 0.0, watcher)? {
        None => writing::built_in(&mut items)?,
        Some(mut writer) => {
            let mut writer = Stoppable {
                writer: writer.as_mut(),
                watcher,
            };
            writing::ask(&mut items, p.prompts.parallel, &mut writer, &mut |_| ())?
        }
    };
    watcher.note(&format!(
        "{skill}: {} questions about {} held-out prompts; {} prompts got none, {} lines were not understood",
        counts.questions, counts.prompts, counts.prompts_without_questions, counts.lines_not_understood
    ));
    let (choice, evaluation): (Vec<Annotated>, _) = items.into_iter().partition(|item| first.contains(&item.id));
    let folder = run.folder.path("questions");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    for (items, purpose) in [(choice, Purpose::Choice), (evaluation, Purpose::Evaluation)] {
        if purpose == Purpose::Choice && chosen_by == 0 {
            continue;
        }
        if items.is_empty() {
            let message =
                format!("{skill}: no reply held a question; look at the replies in prompts/, or take another model");
            return Err(Error::Failed(message));
        }
        dsg::write(&run.folder.path(file(skill, purpose)), &items)?;
    }
    Ok(())
}
