//! Stage `select`: of several pictures of each prompt the best one, by the benchmark's judge.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::images::Generator;
use super::judge::Judge;
use super::questions::About;
use super::settings::SelectSettings;
use super::{Run, Task, held_out};
use crate::data::prompts::{self, Prompt};
use crate::error::{Error, Result};
use crate::evaluate::folder::{self, Entry};
use crate::prompting::select::{Candidate, select as choose, write};
use crate::shapes::caption::parse;
use crate::train::watcher::Watcher;

fn settings<'a>(run: &Run<'a>) -> &'a SelectSettings {
    let settings = run.pipeline.select.as_ref();
    settings.expect("pictures are selected in this pipeline")
}

/// Who selects. Answers of a file are not among it: nothing is selected anew for another answer.
pub(super) fn decides(run: &Run) -> String {
    let e = &run.pipeline.evaluate;
    json!([e.own_benchmark(), e.dependencies, run.pipeline.judge.model]).to_string()
}

/// Refuses prompts that the judge knows nothing to ask about, before any of them is drawn.
///
/// # Errors
/// [`Error::Failed`] naming the first.
pub(super) fn check(run: &Run, skill: &str, prompts: &[Prompt]) -> Result<()> {
    if run.pipeline.select.is_none() || run.pipeline.evaluate.asks() {
        return Ok(());
    }
    match prompts.iter().find_map(|prompt| Some((prompt, parse(&prompt.text).err()?))) {
        None => Ok(()),
        Some((prompt, why)) => Err(Error::Failed(format!(
            "[select]: the judge of benchmark = \"shapes\" cannot tell the best picture of {:?}, a prompt of {skill} ({why}); \
             it knows captions of the built-in world. Take benchmark = \"dsg\" and a [judge], or leave [select] out",
            prompt.text
        ))),
    }
}

/// Makes the training folder `select/SKILL/chosen`, out of `images/SKILL` and, for best-of:K, K - 1 further pictures of each
/// prompt, `select/SKILL/draw-N`, each from a seed of its own.
///
/// # Errors
/// Those of drawing and scoring; [`Error::File`] where a file of answers lacks some; [`Error::Interrupted`].
pub(super) fn select(run: &Run, tasks: Vec<Task>, watcher: &mut dyn Watcher) -> Result<()> {
    let mut generator = None;
    let mut lacking = None;
    for mut task in tasks {
        task.begin = Instant::now();
        let part = task.part();
        let prompts = prompts::read(&run.folder.path(format!("prompts/{part}.json")))?;
        check(run, part, &prompts)?;
        let mut places = vec![format!("images/{part}")];
        for number in 1..settings(run).draws() {
            let generator = match &mut generator {
                Some(generator) => generator,
                none => none.insert(Generator::of_images(run)?),
            };
            let place = format!("select/{part}/draw-{number}");
            generator.generate(&prompts, run.pipeline.seed + number, &run.folder.path(&place), watcher)?;
            places.push(place);
        }
        let judge = Judge::open(run, &format!("select/{part}"), run.pipeline.evaluate.own_benchmark(), watcher)?;
        let candidates = candidates(run, part, &places, &judge, watcher)?;
        // The pictures of the other skills wait for answers too.
        if let Err(error) = judge.complete() {
            lacking.get_or_insert(error);
            continue;
        }
        let chosen = choose(&candidates, settings(run).rule()?);
        let looked_at = candidates.len() / places.len();
        let (some, all) = (chosen.len(), candidates.len());
        watcher.note(&format!("{part}: {some} of {all} pictures are learnt from"));
        if looked_at < prompts.len() {
            let unasked = prompts.len() - looked_at;
            watcher.note(&format!(
                "warning: {part}: {unasked} of {} prompts are left out, because no question was written about them",
                prompts.len()
            ));
        }
        let out = run.folder.path(format!("select/{part}/chosen"));
        // Of a selection that was not finished, by other answers perhaps.
        if out.is_dir() {
            std::fs::remove_dir_all(&out).map_err(|e| Error::io(&out, e))?;
        }
        write(&out, &chosen, &run.folder.path(""))?;
        run.finish(task)?;
    }
    lacking.map_or(Ok(()), Err)
}

/// The scored pictures in the folders `places`; those without an answer are left out, and [`Judge::complete`] tells.
fn candidates(
    run: &Run,
    part: &str,
    places: &[String],
    judge: &Judge,
    watcher: &mut dyn Watcher,
) -> Result<Vec<Candidate>> {
    let items = match run.pipeline.evaluate.asks() {
        true => held_out::written(run, part, About::Learnt)?,
        false => Vec::new(),
    };
    let mut candidates = Vec::new();
    for place in places {
        let entries = pictures(&run.folder.path(place))?;
        let Some(scores) = judge.score(place, &entries, &items, watcher)? else {
            continue;
        };
        // Both are in the order of the folder; pictures of prompts without questions have no score.
        let mut entries = entries.into_iter();
        for picture in scores.pictures {
            let entry = entries.find(|entry| entry.file_name == picture.file_name);
            candidates.extend(entry.map(|entry| Candidate {
                image: entry.path,
                prompt: entry.prompt,
                skill: Some(part.into()),
                score: picture.score,
            }));
        }
    }
    Ok(candidates)
}

fn pictures(dir: &Path) -> Result<Vec<Entry>> {
    let (entries, missing) = folder::list(dir)?;
    match missing.first() {
        None => Ok(entries),
        Some(name) => Err(Error::file(dir.join(name), "is listed in metadata.jsonl, and is not there")),
    }
}
