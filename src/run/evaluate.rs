//! Stage `evaluate`: what the base model, the experts and their merge draw of held-out prompts, all from the same noise,
//! and how well the images show what the prompts say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::benchmarks::QuestionFiles;
use super::estimate::{Costs, Effort};
use super::folder::{Inputs, Paths};
use super::held_out::{self, Purpose, Set};
use super::images::Generator;
use super::judge::{EVALUATION, Judge};
use super::plan::{SELECTED, put};
use super::question_set::QuestionSet;
use super::scored::{Scored, discard_others};
use super::scorers;
use super::stage::{Stage, Task, Work};
use super::{ActiveTask, Run, merge};
use crate::error::Result;
use crate::evaluate::folder::{self, Entry};
use crate::formats::{atomic, digest};
use crate::generate::Settings;
use crate::train::watcher::Watcher;

pub(super) struct Evaluate;

impl Work for Evaluate {
    fn tasks(&self, run: &Run) -> Vec<Task> {
        run.config.evaluates().then(|| Task::whole(Stage::Evaluate)).into_iter().collect()
    }

    fn needs(&self, run: &Run, _: &Task) -> Vec<Task> {
        let all = [Stage::Questions, Stage::Experts, Stage::Merge];
        all.map(|stage| stage.definition().tasks(run)).concat()
    }

    fn question_set(&self) -> Option<QuestionSet> {
        Some(QuestionSet::HeldOut(Purpose::Evaluation))
    }

    fn inputs(&self, run: &Run, _: &Task, inputs: &mut Inputs) -> Result<Paths> {
        put(inputs, "model", run.model(&run.config.experts.model, None)?);
        put(inputs, "settings", settings_input(run)?);
        if let Some(scorers) = scorers::input(run, None)? {
            put(inputs, "scorers", scorers);
        }
        if let Some(judge) = scorers::blip_input(run)? {
            put(inputs, "blip-vqa", judge);
        }
        if let Some(answers) = run.config.judge.answers.as_ref().filter(|answers| answers.exists()) {
            put(inputs, "answers", digest::file(answers)?);
        }
        Ok(Paths { mutable_inputs: vec!["answers", "scorers", "blip-vqa"], ..Paths::one("evaluate") })
    }

    fn estimate(&self, run: &Run, _: &Task, costs: &Costs) -> Result<Effort> {
        let c = run.config;
        let ways = 1 + c.evaluate.guidance_sweep.len();
        let sets = held_out::names(run, Purpose::Evaluation).len();
        let mut drawn = 0;
        for arm in arms(run) {
            let ways = if arm.sets.len() == sets { ways } else { 1 };
            for set in &arm.sets {
                drawn += ways * held_out::count(run, Purpose::Evaluation, set)?;
            }
        }
        let count = drawn as u64 * c.evaluate.seeds;
        Ok(Effort {
            work: format!("{count} images"),
            bytes: count * run.image_bytes(&c.experts.model, &c.evaluate.draw)?,
            seconds: count as f64 * costs.of_experts.image(&c.evaluate.draw),
        })
    }

    fn work(&self, run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()> {
        tasks.into_iter().try_for_each(|task| {
            evaluate(run, watcher)?;
            run.finish(task)
        })
    }
}

/// What is compared.
pub const BASE: &str = "base";
pub const MERGED: &str = "merged";

/// One model that is evaluated.
#[derive(Clone)]
pub(super) struct Arm {
    pub name: String,
    /// Relative to the folder of the run; none for the model as it is.
    pub lora: Option<PathBuf>,
    /// The sets of prompts that it draws: skills, or the one of a file with questions.
    pub sets: Vec<String>,
}

/// The settings that decide the scores, as an input.
fn settings_input(run: &Run) -> Result<String> {
    let e = &run.config.evaluate;
    let skills: Vec<&str> = run.config.skills.iter().map(|skill| skill.id.as_str()).collect();
    // Those of a file are the same whatever checkpoints are chosen by.
    let chosen_by = run.config.choose.as_ref().filter(|_| e.by_skill());
    let chosen_by = chosen_by.map(|choose| choose.prompts);
    let questions = match &e.questions {
        None => None,
        Some(QuestionFiles::One(path)) => Some(json!(digest::file(path)?)),
        Some(QuestionFiles::Each(files)) => {
            let of = |(name, path): (&String, &PathBuf)| Ok((name.clone(), digest::file(path)?));
            Some(json!(files.iter().map(of).collect::<Result<BTreeMap<_, _>>>()?))
        }
    };
    let asked = e.asks().then(|| json!([questions, e.dependencies, e.with_experts, run.config.judge.model]));
    let sweep = if e.guidance_sweep.is_empty() { String::new() } else { format!(" {:?}", e.guidance_sweep) };
    Ok(format!(
        "{} {}{sweep}",
        json!([skills, e.benchmark, e.prompts, e.seeds, chosen_by, asked]),
        run.generation_inputs(&e.draw)
    ))
}

/// Base, all-in-one and merged on every set; each expert on its own, or where there is only a file's, on that if it is asked
/// for.
fn arms(run: &Run) -> Vec<Arm> {
    let p = run.config;
    let sets = held_out::names(run, Purpose::Evaluation);
    let arm = |name: &str, lora: Option<String>, sets: &[String]| Arm {
        name: name.into(),
        lora: lora.map(|folder| Path::new(&folder).join("lora.safetensors")),
        sets: sets.to_vec(),
    };
    let mut arms = vec![arm(BASE, None, &sets)];
    if p.all_in_one {
        let part = p.all_in_one_part();
        arms.push(arm(&part, Some(format!("experts/{part}")), &sets));
    }
    arms.push(arm(MERGED, Some(merge::folder("")), &sets));
    if p.select.is_some() {
        let folder = merge::folder(&SELECTED[1..]);
        arms.push(arm(&format!("{MERGED}{SELECTED}"), Some(folder), &sets));
    }
    for skill in &p.skills {
        let id = &skill.id;
        // Its own prompts, and those of files where that is asked for.
        let of_file = |set: &String| p.evaluate.file(set).is_some();
        let own = |set: &&String| match of_file(set) {
            true => p.evaluate.with_experts,
            false => *set == id,
        };
        let own: Vec<String> = sets.iter().filter(own).cloned().collect();
        if !own.is_empty() {
            arms.push(arm(&expert(id), Some(format!("experts/{id}")), &own));
        }
    }
    arms
}

/// The names of all arms.
pub(super) fn arm_names(run: &Run) -> Vec<String> {
    arms(run).into_iter().map(|arm| arm.name).collect()
}

/// The arm of a skill's expert.
pub(super) fn expert(skill: &str) -> String {
    format!("expert-{skill}")
}

/// Where an arm's images of one set from one seed are.
pub(super) fn images(arm: &str, set: &str, seed: u64) -> String {
    format!("evaluate/{arm}/{set}/seed-{seed}")
}

/// Draws everything, and then scores it.
///
/// # Errors
/// Those of drawing and scoring; [`crate::Error::File`] where a file of answers lacks some; [`crate::Error::Interrupted`].
fn evaluate(run: &Run, watcher: &mut dyn Watcher) -> Result<()> {
    let sets = held_out::sets(run, Purpose::Evaluation, &|_| true)?;
    let judge = Judge::open(run, EVALUATION, watcher)?;
    let drawn = draw(run, &sets, watcher)?;
    let benchmarks = run.config.evaluate.benchmarks();
    let of = |benchmark: &String| -> Vec<&Set> { sets.iter().filter(|set| set.benchmark == *benchmark).collect() };
    let mut scored = Vec::new();
    for benchmark in benchmarks {
        scored.push(Scored::of(run, &judge, benchmark, &of(benchmark), &drawn, watcher)?);
    }
    judge.complete()?;
    let own = of(&benchmarks[0]);
    let unswept = drawn.iter().filter(|drawing| drawing.swept.is_none());
    let arms: Vec<(&str, Vec<Entry>)> = unswept
        .map(|drawing| (&*drawing.arm.name, drawing.of(&own)))
        .filter(|(_, entries)| !entries.is_empty())
        .collect();
    let columns = scorers::columns(run, &arms, watcher)?;
    discard_others(run)?;
    let mut summaries = Vec::new();
    for (benchmark, scored) in benchmarks.iter().zip(scored) {
        summaries.push(scored.finish(run, benchmark, &of(benchmark))?);
    }
    let mut summary = summaries.remove(0);
    summary.scorers = columns;
    summary.further = summaries;
    atomic::write(&run.folder.path("evaluate/summary.json"), |w| {
        serde_json::to_writer_pretty(&mut *w, &summary)?;
        writeln!(w)
    })
}

/// What an arm drew at one guidance.
pub(super) struct Drawn {
    pub arm: Arm,
    /// NaN where it is left to the model's family, which no sweep allows.
    pub guidance: f64,
    /// The guidance, where it is one of the sweep.
    pub swept: Option<f64>,
    /// Named from the folder of [`Drawn::place`].
    entries: Vec<Entry>,
}

impl Drawn {
    /// Within `evaluate`.
    pub fn place(&self) -> String {
        place(&self.arm.name, self.swept)
    }

    /// The images of some sets.
    pub fn of(&self, sets: &[&Set]) -> Vec<Entry> {
        let among =
            |entry: &&Entry| sets.iter().any(|set| entry.file_name.split('/').next() == Some(set.name.as_str()));
        self.entries.iter().filter(among).cloned().collect()
    }
}

/// Where an arm's images are, within `evaluate`.
fn place(arm: &str, swept: Option<f64>) -> String {
    match swept {
        None => arm.into(),
        Some(guidance) => format!("sweep/{arm}/guidance-{guidance}"),
    }
}

/// The images of every arm, at every guidance that it is evaluated at.
fn draw(run: &Run, sets: &[Set], watcher: &mut dyn Watcher) -> Result<Vec<Drawn>> {
    let settings = &run.config.evaluate;
    let seeds = || run.config.seed..run.config.seed + settings.seeds;
    let at = |guidance: &f64| (Some(*guidance), Settings { guidance: Some(*guidance), ..settings.draw.clone() });
    let ways: Vec<(Option<f64>, Settings)> =
        std::iter::once((None, settings.draw.clone())).chain(settings.guidance_sweep.iter().map(at)).collect();
    let mut generator = Generator::load(run, &run.config.experts.model, None, &settings.draw)?;
    let mut drawn = Vec::new();
    for arm in arms(run) {
        watcher.note(&format!("evaluate: {}", arm.name));
        let lora = arm.lora.as_ref().map(|lora| run.folder.path(lora));
        generator.with_lora(lora.as_deref())?;
        // A skill's expert is evaluated on its own prompts, and nothing is compared with it.
        let ways = if arm.sets.len() == sets.len() { &ways[..] } else { &ways[..1] };
        for (swept, settings) in ways {
            generator.set(settings);
            let mut entries = Vec::new();
            for set in sets.iter().filter(|set| arm.sets.contains(&set.name)) {
                for seed in seeds() {
                    let inner = format!("{}/seed-{seed}", set.name);
                    let dir = run.folder.path(format!("evaluate/{}/{inner}", place(&arm.name, *swept)));
                    generator.generate(&set.prompts, seed, &dir, watcher)?;
                    let (mut here, _) = folder::list(&dir)?;
                    for entry in &mut here {
                        entry.file_name = format!("{inner}/{}", entry.file_name);
                    }
                    entries.extend(here);
                }
            }
            let guidance = settings.guidance.unwrap_or(f64::NAN);
            drawn.push(Drawn { arm: arm.clone(), guidance, swept: *swept, entries });
        }
    }
    Ok(drawn)
}
