//! Stage `select`: of several pictures of each prompt the best one, by the benchmark's judge.

use std::time::Instant;

use super::images::Painter;
use super::{Run, Task};
use crate::data::prompts;
use crate::error::{Error, Result};
use crate::evaluate::{folder, shapes};
use crate::selma::select::{Candidate, Rule, select as choose, write};
use crate::train::watcher::Watcher;

/// Makes the training folder `select/SKILL`, out of `images/SKILL` and, for best-of:K, K - 1 further pictures of each
/// prompt, `select/SKILL/draw-N`, each from a seed of its own.
///
/// # Errors
/// [`Error::Usage`] for a rule that does not exist; those of drawing and scoring.
pub(super) fn select(run: &Run, tasks: Vec<Task>, watcher: &mut dyn Watcher) -> Result<()> {
    let settings = run.pipeline.select.as_ref().expect("the stage is part of the pipeline");
    let rule = Rule::parse(&settings.rule)?;
    let draws = match rule {
        Rule::BestOf(k) => k as u64,
        _ => 1,
    };
    let painter = Painter::generator(run)?;
    for mut task in tasks {
        task.begin = Instant::now();
        let part = task.part();
        let prompts = prompts::read(&run.folder.path(format!("prompts/{part}.json")))?;
        let mut folders = vec![run.folder.path(format!("images/{part}"))];
        for number in 1..draws {
            let out = run.folder.path(format!("select/{part}/draw-{number}"));
            painter.draw(&prompts, run.pipeline.seed + number, &out, watcher)?;
            folders.push(out);
        }
        let mut candidates = Vec::new();
        for dir in &folders {
            let (entries, missing) = folder::list(dir)?;
            if let Some(name) = missing.first() {
                return Err(Error::file(
                    dir.join(name),
                    "is listed in metadata.jsonl, and is not there",
                ));
            }
            let scores = shapes::evaluate(&entries, run.pipeline.seed)?;
            candidates.extend(
                entries
                    .into_iter()
                    .zip(scores.pictures)
                    .map(|(entry, scored)| Candidate {
                        image: entry.path,
                        prompt: entry.prompt,
                        skill: Some(part.into()),
                        score: scored.score,
                    }),
            );
        }
        let chosen = choose(&candidates, rule);
        watcher.note(&format!(
            "{part}: {} of {} pictures are learnt from",
            chosen.len(),
            candidates.len()
        ));
        write(&run.folder.path(format!("select/{part}/chosen")), &chosen)?;
        run.finish(task)?;
    }
    Ok(())
}
