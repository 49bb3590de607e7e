//! Stage `questions`: DSG's questions about pictures of the run, where no file says what to ask: about those that are learnt
//! from where the best are selected, and about captions that nothing learns from.

use super::Run;
use super::held_out::Purpose;
use super::prompts::{Stoppable, captions, source};
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::evaluate::questions::dsg::{self, Annotated};
use crate::evaluate::questions::writing::{self, Counts};
use crate::formats::digest;
use crate::train::watcher::Watcher;

/// The pictures that are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// Those of the prompts that are learnt from.
    Learnt,
    HeldOut(Purpose),
}

impl About {
    const ALL: [About; 3] = [About::Learnt, About::HeldOut(Purpose::Choice), About::HeldOut(Purpose::Evaluation)];

    /// How many prompts of each skill are asked about in this run; none where nobody asks, or a file says what.
    pub fn prompts(self, run: &Run) -> usize {
        let p = run.pipeline;
        match self {
            _ if !p.evaluate.asks() => 0,
            About::Learnt => p.select.as_ref().map_or(0, |_| p.prompts.count),
            About::HeldOut(Purpose::Choice) => p.choose.as_ref().map_or(0, |choose| choose.prompts),
            About::HeldOut(Purpose::Evaluation) => match p.evaluate.questions {
                Some(_) => 0,
                None => p.evaluate.prompts_a_skill(),
            },
        }
    }
}

/// What is asked about in this run, in the order of the captions.
pub(super) fn all(run: &Run) -> Vec<About> {
    About::ALL.into_iter().filter(|about| about.prompts(run) > 0).collect()
}

/// Where the questions of a skill are.
pub(super) fn file(skill: &str, about: About) -> String {
    match about {
        About::Learnt => format!("questions/{skill}.learnt.csv"),
        About::HeldOut(Purpose::Choice) => format!("questions/{skill}.choice.csv"),
        About::HeldOut(Purpose::Evaluation) => format!("questions/{skill}.csv"),
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
pub(super) fn replayed(run: &Run, skill: &str) -> Result<Option<String>> {
    let Some(folder) = &run.pipeline.prompts.replay else {
        return Ok(None);
    };
    let learnt = About::Learnt.prompts(run) > 0;
    let held_out = all(run).iter().any(|about| *about != About::Learnt);
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
pub(super) fn write(run: &Run, skill: &str, watcher: &mut dyn Watcher) -> Result<()> {
    let [learnt, chosen_by, evaluated] = About::ALL.map(|about| about.prompts(run));
    let count = run.pipeline.prompts.count;
    let mut all = captions(run, skill, count + chosen_by + evaluated, watcher)?;
    let held_out = all.split_off(count);
    let [of_learnt, of_held_out] = recordings(skill);
    if learnt > 0 {
        let items = items(&all, &format!("{skill}.learnt"))?;
        let (items, counts) = ask(run, items, &of_learnt, watcher)?;
        say(skill, "prompts that are learnt from", &counts, watcher);
        save(run, skill, About::Learnt, &items)?;
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
        let about = About::HeldOut(purpose);
        if about.prompts(run) > 0 {
            save(run, skill, about, &items)?;
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
    let counts = match source(run, recording, 0.0, watcher)? {
        None => writing::built_in(&mut items)?,
        Some(mut writer) => {
            let mut writer = Stoppable { writer: writer.as_mut(), watcher };
            writing::ask(&mut items, run.pipeline.prompts.parallel, &mut writer, &mut |_| ())?
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

fn save(run: &Run, skill: &str, about: About, items: &[Annotated]) -> Result<()> {
    if items.is_empty() {
        let message =
            format!("{skill}: no reply held a question; look at the replies in prompts/, or take another model");
        return Err(Error::Failed(message));
    }
    let folder = run.folder.path("questions");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    dsg::write(&run.folder.path(file(skill, about)), items)
}
