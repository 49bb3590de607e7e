//! Stage `questions`: DSG's questions about images of the run, where no file says what to ask: about those that are learnt
//! from where the best are selected, and about captions that nothing learns from.

use std::path::PathBuf;

use super::estimate::{Costs, Effort};
use super::folder::{Inputs, Paths};
use super::held_out::Purpose;
use super::plan::put;
use super::prompts::{Stoppable, captions, source};
use super::question_set::QuestionSet;
use super::stage::{Stage, Task, Work};
use super::{ActiveTask, Run};
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::evaluate::questions::dsg::{self, Annotated};
use crate::evaluate::questions::writing::{self, Counts};
use crate::formats::digest;
use crate::prompting::llm::Role;
use crate::train::watcher::Watcher;

pub(super) struct Questions;

impl Work for Questions {
    fn tasks(&self, run: &Run) -> Vec<Task> {
        match QuestionSet::of_run(run).is_empty() {
            true => Vec::new(),
            false => run.task_a_skill(Stage::Questions),
        }
    }

    fn needs(&self, _: &Run, task: &Task) -> Vec<Task> {
        vec![Task::new(Stage::Prompts, task.part())]
    }

    fn inputs(&self, run: &Run, task: &Task, inputs: &mut Inputs) -> Result<Paths> {
        let part = task.part();
        if let Some(replies) = replayed(run, part)? {
            put(inputs, "replay", replies);
        }
        let sets = QuestionSet::of_run(run);
        let counts: Vec<usize> = sets.iter().map(|set| set.prompts(run)).collect();
        put(inputs, "settings", format!("{sets:?} {counts:?}"));
        let files: Vec<PathBuf> = sets.iter().map(|set| set.file(part).into()).collect();
        Ok(Paths { outputs: files.clone(), own: files, ..Paths::default() })
    }

    fn estimate(&self, run: &Run, _: &Task, _: &Costs) -> Result<Effort> {
        let count: usize = QuestionSet::of_run(run).iter().map(|set| set.prompts(run)).sum();
        Ok(Effort { work: format!("{} requests", 3 * count), bytes: count as u64 * 2000, seconds: 0.0 })
    }

    fn work(&self, run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()> {
        tasks.into_iter().try_for_each(|task| {
            write(run, task.part(), watcher)?;
            run.finish(task)
        })
    }
}

/// Recorded replies: of questions about what is learnt from, and of those about held-out captions.
fn recordings(skill: &str) -> [String; 2] {
    ["learnt.questions", "questions"].map(|kind| format!("{skill}.{kind}.replies.jsonl"))
}

/// The hash of the recorded replies that the questions of `skill` are made from.
///
/// # Errors
/// [`Error::File`] where one is not there.
fn replayed(run: &Run, skill: &str) -> Result<Option<String>> {
    let Some(folder) = &run.config.prompts.replay else {
        return Ok(None);
    };
    let learnt = QuestionSet::Learnt.prompts(run) > 0;
    let held_out = QuestionSet::of_run(run).iter().any(|set| *set != QuestionSet::Learnt);
    let used = recordings(skill).into_iter().zip([learnt, held_out]);
    let hash = |(name, _): (String, bool)| match folder.join(name) {
        path if path.exists() => digest::file(&path),
        path => {
            let message = "no such recording; [select], [choose] and dsg without a file have the writer make questions, whose \
                           replies `replay` needs too: an endpoint leaves them in prompts/ of its run";
            Err(Error::file(path, message))
        }
    };
    let hashes = used.filter(|(_, used)| *used).map(hash);
    hashes.collect::<Result<Vec<_>>>().map(|hashes| Some(hashes.join(" ")))
}

/// Writes the question files of a skill. Held-out captions are those that the writer goes on with after those of the stage
/// `prompts`: those that checkpoints are chosen by, and then those of the evaluation.
///
/// # Errors
/// Those of the writer; [`Error::Failed`] where it writes no question; [`Error::Interrupted`].
fn write(run: &Run, skill: &str, watcher: &mut dyn Watcher) -> Result<()> {
    let [learnt, chosen_by, evaluated] = QuestionSet::ALL.map(|set| set.prompts(run));
    let count = run.config.prompts.count;
    let mut all = captions(run, skill, count + chosen_by + evaluated, watcher)?;
    let held_out = all.split_off(count);
    let [of_learnt, of_held_out] = recordings(skill);
    if learnt > 0 {
        let items = items(&all, &format!("{skill}.learnt"))?;
        let (items, counts) = ask(run, items, &of_learnt, watcher)?;
        say(skill, "prompts that are learnt from", &counts, watcher);
        save(run, skill, QuestionSet::Learnt, &items)?;
    }
    if held_out.is_empty() {
        return Ok(());
    }
    let items = items(&held_out, skill)?;
    let first: Vec<String> = items.iter().take(chosen_by).map(|item| item.id.clone()).collect();
    let (items, counts) = ask(run, items, &of_held_out, watcher)?;
    say(skill, "held-out prompts", &counts, watcher);
    let (choice, evaluation): (Vec<Annotated>, _) = items.into_iter().partition(|item| first.contains(&item.id));
    for (items, purpose) in [(choice, Purpose::Choice), (evaluation, Purpose::Evaluation)] {
        let set = QuestionSet::HeldOut(purpose);
        if set.prompts(run) > 0 {
            save(run, skill, set, &items)?;
        }
    }
    Ok(())
}

fn items(captions: &[String], stem: &str) -> Result<Vec<Annotated>> {
    let prompts: Vec<Prompt> = captions.iter().map(Prompt::new).collect();
    writing::items(&prompts, stem)
}

fn ask(
    run: &Run,
    mut items: Vec<Annotated>,
    recording: &str,
    watcher: &mut dyn Watcher,
) -> Result<(Vec<Annotated>, Counts)> {
    let counts = match source(run, recording, Role::Questioner, watcher)? {
        None => writing::built_in(&mut items)?,
        Some(mut writer) => {
            let mut writer = Stoppable { writer: writer.as_mut(), watcher };
            writing::ask(&mut items, run.config.prompts.endpoint.parallel(Role::Questioner), &mut writer, &mut |_| ())?
        }
    };
    Ok((items, counts))
}

fn say(skill: &str, what: &str, counts: &Counts, watcher: &mut dyn Watcher) {
    watcher.note(&format!(
        "{skill}: {} questions about {} {what}; {} prompts got none, {} lines were not understood",
        counts.questions, counts.prompts, counts.prompts_without_questions, counts.lines_not_understood
    ));
}

fn save(run: &Run, skill: &str, set: QuestionSet, items: &[Annotated]) -> Result<()> {
    if items.is_empty() {
        let message =
            format!("{skill}: no reply held a question; look at the replies in prompts/, or take another model");
        return Err(Error::Failed(message));
    }
    let folder = run.folder.path("questions");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    dsg::write(&run.folder.path(set.file(skill)), items)
}
