//! Stage `select`: of several images of each prompt the best one, by the benchmark's judge or by a scorer.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::estimate::{Costs, Effort};
use super::folder::{Inputs, Paths};
use super::images::Generator;
use super::judge::Judge;
use super::plan::put;
use super::question_set::QuestionSet;
use super::settings::SelectSettings;
use super::stage::{Stage, Task, Work};
use super::{ActiveTask, Run, held_out, images, scorers};
use crate::data::prompts::{self, Prompt};
use crate::error::{Error, Result};
use crate::evaluate::folder::{self, Entry};
use crate::prompting::select::{Candidate, select as best, write};
use crate::shapes::caption::parse;
use crate::train::watcher::Watcher;

fn settings<'a>(run: &Run<'a>) -> &'a SelectSettings {
    let settings = run.config.select.as_ref();
    settings.expect("images are selected in this pipeline")
}

pub(super) struct Select;

impl Work for Select {
    fn tasks(&self, run: &Run) -> Vec<Task> {
        match run.config.select {
            None => Vec::new(),
            Some(_) => run.task_a_skill(Stage::Select),
        }
    }

    fn needs(&self, run: &Run, task: &Task) -> Vec<Task> {
        [vec![Task::new(Stage::Images, task.part())], run.questions_for(task.part())].concat()
    }

    fn question_set(&self) -> Option<QuestionSet> {
        Some(QuestionSet::Learnt)
    }

    fn inputs(&self, run: &Run, task: &Task, inputs: &mut Inputs) -> Result<Paths> {
        images::model_inputs(run, inputs)?;
        put(inputs, "rule", settings(run).rule.clone());
        put(inputs, "judge", judge_inputs(run));
        if let Some(by) = scorers::by_input(run)? {
            put(inputs, "by", by);
        }
        Ok(Paths::one(&format!("select/{}", task.part())))
    }

    fn estimate(&self, run: &Run, _: &Task, costs: &Costs) -> Result<Effort> {
        let further = settings(run).images_a_prompt() as usize - 1;
        images::effort(run, run.config.prompts.count * further, costs)
    }

    fn work(&self, run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()> {
        best_of_n(run, tasks, watcher)
    }
}

/// The judge, as an input. Answers of a file are not part of it: nothing is selected anew for another answer.
fn judge_inputs(run: &Run) -> String {
    let e = &run.config.evaluate;
    json!([e.own_benchmark(), e.dependencies, run.config.judge.model]).to_string()
}

/// Refuses prompts that the judge knows nothing to ask about, before any of them is drawn.
///
/// # Errors
/// [`Error::Failed`] naming the first.
pub(super) fn check(run: &Run, skill: &str, prompts: &[Prompt]) -> Result<()> {
    if run.config.select.is_none() || run.config.evaluate.asks() || run.config.judge.by.is_some() {
        return Ok(());
    }
    match prompts.iter().find_map(|prompt| Some((prompt, parse(&prompt.text).err()?))) {
        None => Ok(()),
        Some((prompt, why)) => Err(Error::Failed(format!(
            "[select]: the judge of benchmark = \"shapes\" cannot tell the best image of {:?}, a prompt of {skill} ({why}); \
             it knows captions of the built-in world. Take benchmark = \"dsg\" and a [judge], or leave [select] out",
            prompt.text
        ))),
    }
}

/// Makes the training folder `select/SKILL/chosen`, out of `images/SKILL` and, for best-of:K, K - 1 further images of each
/// prompt, `select/SKILL/draw-N`, each from a seed of its own.
///
/// # Errors
/// Those of drawing and scoring; [`Error::File`] where a file of answers lacks some; [`Error::Interrupted`].
fn best_of_n(run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()> {
    let mut generator = None;
    let mut lacking = None;
    for mut task in tasks {
        task.begin = Instant::now();
        let part = task.part();
        let prompts = prompts::read(&run.folder.path(format!("prompts/{part}.json")))?;
        check(run, part, &prompts)?;
        let mut places = vec![format!("images/{part}")];
        for number in 1..settings(run).images_a_prompt() {
            let generator = match &mut generator {
                Some(generator) => generator,
                none => none.insert(Generator::of_images(run)?),
            };
            let place = format!("select/{part}/draw-{number}");
            generator.generate(&prompts, run.config.seed + number, &run.folder.path(&place), watcher)?;
            places.push(place);
        }
        let judge = Judge::open(run, &format!("select/{part}"), watcher)?;
        let candidates = candidates(run, part, &places, &judge, watcher)?;
        // The images of the other skills wait for answers too.
        if let Err(error) = judge.complete() {
            lacking.get_or_insert(error);
            continue;
        }
        let chosen = best(&candidates, settings(run).rule()?);
        let looked_at = candidates.len() / places.len();
        let (some, all) = (chosen.len(), candidates.len());
        watcher.note(&format!("{part}: {some} of {all} images are learnt from"));
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

/// The scored images in the folders `places`; those without an answer are left out, and [`Judge::complete`] tells.
fn candidates(
    run: &Run,
    part: &str,
    places: &[String],
    judge: &Judge,
    watcher: &mut dyn Watcher,
) -> Result<Vec<Candidate>> {
    let items = match run.config.evaluate.asks() && run.config.judge.by.is_none() {
        true => held_out::written(run, part, QuestionSet::Learnt)?,
        false => Vec::new(),
    };
    let mut candidates = Vec::new();
    for place in places {
        let entries = images(&run.folder.path(place))?;
        let Some(scores) = judge.score(run.config.evaluate.own_benchmark(), place, &entries, &items, watcher)? else {
            continue;
        };
        // Both are in the order of the folder; images of prompts without questions have no score.
        let mut entries = entries.into_iter();
        for image in scores.images {
            let entry = entries.find(|entry| entry.file_name == image.file_name);
            candidates.extend(entry.map(|entry| Candidate {
                image: entry.path,
                prompt: entry.prompt,
                skill: Some(part.into()),
                score: image.score,
            }));
        }
    }
    Ok(candidates)
}

fn images(dir: &Path) -> Result<Vec<Entry>> {
    let (entries, missing) = folder::list(dir)?;
    match missing.first() {
        None => Ok(entries),
        Some(name) => Err(Error::file(dir.join(name), "is listed in metadata.jsonl, and is not there")),
    }
}
