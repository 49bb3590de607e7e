//! Of each expert the checkpoint that scores best on held-out prompts, as in the paper: candidates are kept while the expert
//! is trained, and scored when all experts are.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::held_out::{Purpose, Set, sets};
use super::images::Generator;
use super::judge::Judge;
use super::settings::ChooseSettings;
use super::{ActiveTask, Run, scorers};
use crate::error::{Error, Result};
use crate::evaluate::folder;
use crate::evaluate::questions::Item;
use crate::evaluate::statistics::Estimate;
use crate::formats::{atomic, digest};
use crate::train::checkpoint;
use crate::train::trainer::Trainer;
use crate::train::watcher::Watcher;

/// The file in the expert's folder.
pub(super) const NAME: &str = "choice.json";

/// What was chosen, and by what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Of the chosen candidate: the best, of equal ones the first.
    pub step: u64,
    /// The hash of its LoRA.
    pub sha256: String,
    pub benchmark: String,
    pub judge: String,
    pub candidates: Vec<Candidate>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub step: u64,
    pub score: Estimate,
}

impl Choice {
    /// # Errors
    /// [`Error::Io`]; [`Error::File`].
    pub(super) fn read(run: &Run, part: &str) -> Result<Self> {
        let path = run.folder.path(format!("experts/{part}/{NAME}"));
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::file(&path, e.to_string()))
    }
}

/// A trained expert whose checkpoint is to be chosen.
pub(super) struct Trained {
    pub task: ActiveTask,
    /// What the training took.
    pub took: Duration,
}

fn settings<'a>(run: &Run<'a>) -> &'a ChooseSettings {
    run.config.choose.as_ref().expect("checkpoints are chosen in this run")
}

/// The settings that decide the choice, as an input. Where answers come from a file they are not among them: an expert is not trained
/// anew for another answer.
///
/// # Errors
/// As [`scorers::by_input`].
pub(super) fn inputs(run: &Run) -> Result<String> {
    let (c, e, j) = (settings(run), &run.config.evaluate, &run.config.judge);
    let judge = json!([e.own_benchmark(), e.dependencies, j.model]);
    let by = scorers::by_input(run)?.map_or(String::new(), |by| format!(" {by}"));
    Ok(format!("{} {judge} {}{by}", json!(c), run.generation_inputs(&e.draw)))
}

/// The steps at which a candidate is taken.
pub(super) fn steps(run: &Run, part: &str) -> Vec<u64> {
    let (every, last) = (settings(run).every, run.config.steps(part));
    let mut steps: Vec<u64> = (1..).map(|i| i * every).take_while(|&step| step < last).collect();
    steps.push(last);
    steps
}

fn candidates(run: &Run, part: &str) -> PathBuf {
    run.folder.path(format!("experts/{part}/candidates"))
}

fn candidate(run: &Run, part: &str, step: u64) -> PathBuf {
    candidates(run, part).join(format!("step-{step:08}.safetensors"))
}

/// Whether the choice was made, and the expert is as it was chosen.
///
/// # Errors
/// [`Error::Io`] where the expert cannot be read.
pub(super) fn is_made(run: &Run, part: &str) -> Result<bool> {
    let folder = run.folder.path(format!("experts/{part}"));
    let Ok(choice) = Choice::read(run, part) else {
        return Ok(false);
    };
    let [lora, metrics] = ["lora.safetensors", "metrics.jsonl"].map(|file| folder.join(file));
    Ok(lora.is_file() && metrics.is_file() && digest::file(&lora)? == choice.sha256)
}

/// Has the training begin anew where candidates of steps before its newest state are missing: nothing else brings them back.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn check_candidates(run: &Run, part: &str) -> Result<()> {
    let states = run.folder.path(format!("experts/{part}/state"));
    let newest = checkpoint::list(&states)?.last().and_then(|path| checkpoint::step_of(path));
    let missing = |step: &u64| newest.is_some_and(|newest| *step < newest) && !candidate(run, part, *step).is_file();
    match steps(run, part).iter().any(missing) {
        true => std::fs::remove_dir_all(&states).map_err(|e| Error::io(&states, e)),
        false => Ok(()),
    }
}

/// Trains to the last step, and keeps the candidates.
///
/// # Errors
/// As [`Trainer::run`].
pub(super) fn train(run: &Run, part: &str, trainer: &mut Trainer, watcher: &mut dyn Watcher) -> Result<()> {
    atomic::create_folder(&candidates(run, part))?;
    for step in steps(run, part) {
        if step >= trainer.step() {
            trainer.run_to(step, watcher)?;
            trainer.save_lora(&candidate(run, part, step))?;
        }
    }
    Ok(())
}

/// Scores the candidates of all experts, and makes the best of each its `lora.safetensors`.
///
/// # Errors
/// Those of drawing and scoring; [`Error::File`] where a file of answers lacks some; [`Error::Interrupted`].
pub(super) fn choose(run: &Run, trained: Vec<Trained>, watcher: &mut dyn Watcher) -> Result<()> {
    let learnt = |skill: &str| trained.iter().any(|expert| run.learns(expert.task.part(), skill));
    let sets = sets(run, Purpose::Choice, &learnt)?;
    let mut lacking = None;
    let mut generator = Generator::load(run, &run.config.experts.model, None, &run.config.evaluate.draw)?;
    for Trained { mut task, took } in trained {
        let begin = Instant::now();
        let part = task.part();
        if !is_made(run, part)? {
            let own: Vec<&Set> = sets.iter().filter(|set| run.learns(part, &set.name)).collect();
            let judge = Judge::open(run, &format!("experts/{part}"), watcher)?;
            let choice = score(run, part, &own, &mut generator, &judge, watcher)?;
            // The images of the other experts wait for answers too.
            if let Err(error) = judge.complete() {
                lacking.get_or_insert(error);
                continue;
            }
            let choice = choice.expect("there are scores where no answer is lacking");
            let chosen = candidate(run, part, choice.step);
            let bytes = std::fs::read(&chosen).map_err(|e| Error::io(&chosen, e))?;
            atomic::write_bytes(&run.folder.path(format!("experts/{part}/lora.safetensors")), &bytes)?;
            let path = run.folder.path(format!("experts/{part}/{NAME}"));
            let text = serde_json::to_vec_pretty(&choice).map_err(|e| Error::file(&path, e.to_string()))?;
            atomic::write_bytes(&path, &text)?;
            watcher.note(&format!(
                "{part}: step {}, the best of {} checkpoints on {} held-out prompts",
                choice.step,
                choice.candidates.len(),
                choice.candidates[0].score.prompts
            ));
        }
        let candidates = candidates(run, part);
        if candidates.is_dir() {
            std::fs::remove_dir_all(&candidates).map_err(|e| Error::io(&candidates, e))?;
        }
        task.begin = begin.checked_sub(took).unwrap_or(begin);
        run.finish(task)?;
    }
    lacking.map_or(Ok(()), Err)
}

/// None where a file of answers lacks some.
fn score(
    run: &Run,
    part: &str,
    sets: &[&Set],
    generator: &mut Generator,
    judge: &Judge,
    watcher: &mut dyn Watcher,
) -> Result<Option<Choice>> {
    let items: Vec<Item> = sets.iter().flat_map(|set| set.items.iter().cloned()).collect();
    let mut scored = Vec::new();
    for step in steps(run, part) {
        let lora = candidate(run, part, step);
        generator.with_lora(Some(&lora))?;
        let mut entries = Vec::new();
        for set in sets {
            let dir = candidates(run, part).join(format!("step-{step:08}/{}", set.name));
            generator.generate(&set.prompts, run.config.seed, &dir, watcher)?;
            let (mut here, _) = folder::list(&dir)?;
            here.iter_mut().for_each(|entry| entry.file_name = format!("{}/{}", set.name, entry.file_name));
            entries.extend(here);
        }
        let place = format!("experts/{part}/step-{step:08}");
        let benchmark = run.config.evaluate.own_benchmark();
        scored.push((step, lora, judge.score(benchmark, &place, &entries, &items, watcher)?));
    }
    let mut best: Option<Choice> = None;
    let mut candidates = Vec::new();
    for (step, lora, scores) in scored {
        let Some(scores) = scores else {
            return Ok(None);
        };
        let score = scores.overall;
        candidates.push(Candidate { step, score });
        let highest = candidates.iter().filter(|c| c.step < step).map(|c| c.score.mean).fold(f64::MIN, f64::max);
        if score.mean > highest {
            best = Some(Choice {
                step,
                sha256: digest::file(&lora)?,
                benchmark: scores.benchmark,
                judge: scores.judge,
                candidates: Vec::new(),
            });
        }
    }
    Ok(best.map(|choice| Choice { candidates, ..choice }))
}
