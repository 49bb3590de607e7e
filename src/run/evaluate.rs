//! Stage `evaluate`: what the base model, the experts and their merge draw of held-out prompts, all from the same noise,
//! and how well the images show what the prompts say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::ALL_IN_ONE;
use super::estimate::{Costs, Effort};
use super::folder::{Inputs, Paths};
use super::held_out::{self, Purpose, Set};
use super::images::Generator;
use super::judge::{EVALUATION, Judge};
use super::plan::{SELECTED, put};
use super::question_set::QuestionSet;
use super::scorers::{self, Column};
use super::stage::{Stage, Task, Work};
use super::sweep::{Strict, Sweep};
use super::{ActiveTask, Run, merge};
use crate::error::{Error, Result};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::folder::{self, Entry};
use crate::evaluate::questions::Item;
use crate::evaluate::scores::Scores;
use crate::evaluate::shapes;
use crate::evaluate::statistics::Estimate;
use crate::formats::{atomic, digest};
use crate::generate::Settings;
use crate::shapes::judge::Naming;
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
        let drawn = |arm: &Arm| arm.sets.len() * if arm.sets.len() == sets { ways } else { 1 };
        let folders: usize = arms(run).iter().map(drawn).sum();
        let prompts = held_out::count(run, Purpose::Evaluation)?;
        let count = (folders * prompts) as u64 * c.evaluate.seeds;
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
struct Arm {
    pub name: String,
    /// Relative to the folder of the run; none for the model as it is.
    pub lora: Option<PathBuf>,
    /// The sets of prompts that it draws: skills, or the one of a file with questions.
    pub sets: Vec<String>,
}

/// The means of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmScores {
    pub name: String,
    pub overall: Estimate,
    pub skills: BTreeMap<String, Estimate>,
    /// Of a benchmark's prompts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub families: BTreeMap<String, Estimate>,
}

/// Two arms on the prompts that both drew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    pub ours: String,
    pub theirs: String,
    #[serde(flatten)]
    pub comparison: Comparison,
}

/// `evaluate/summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub benchmark: String,
    pub judge: String,
    /// Of each skill, or of the file.
    pub prompts: usize,
    /// Of the file, because the pipeline asks for fewer.
    #[serde(default, skip_serializing_if = "is_none")]
    pub prompts_left_out: usize,
    pub seeds: u64,
    pub arms: Vec<ArmScores>,
    pub comparisons: Vec<Compared>,
    /// The same and other guidances, where the pipeline asks for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    /// What a judge with a stricter naming limit makes of the same images, of the benchmark `shapes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<Strict>,
    /// What the scorers of the run say, one a column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scorers: Vec<Column>,
}

impl ArmScores {
    fn of((name, scores): &(String, Scores)) -> Self {
        let (skills, families) = (scores.skills.clone(), scores.families.clone());
        Self { name: name.clone(), overall: scores.overall, skills, families }
    }
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

impl Summary {
    /// The summary of a run's folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`].
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::file(path, e.to_string()))
    }

    /// How much better `ours` was than `theirs`.
    pub fn compared(&self, ours: &str, theirs: &str) -> Option<&Comparison> {
        let pair = |c: &&Compared| c.ours == ours && c.theirs == theirs;
        self.comparisons.iter().find(pair).map(|c| &c.comparison)
    }
}

/// The settings that decide the scores, as an input.
fn settings_input(run: &Run) -> Result<String> {
    let e = &run.config.evaluate;
    let skills: Vec<&str> = run.config.skills.iter().map(|skill| skill.id.as_str()).collect();
    // Those of a file are the same whatever checkpoints are chosen by.
    let chosen_by = run.config.choose.as_ref().filter(|_| e.questions.is_none());
    let chosen_by = chosen_by.map(|choose| choose.prompts);
    let questions = e.questions.as_deref().map(digest::file).transpose()?;
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
        let own = match p.evaluate.questions {
            None => std::slice::from_ref(id),
            Some(_) if p.evaluate.with_experts => &sets,
            Some(_) => continue,
        };
        arms.push(arm(&expert(id), Some(format!("experts/{id}")), own));
    }
    arms
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
/// Those of drawing and scoring; [`Error::File`] where a file of answers lacks some; [`Error::Interrupted`].
fn evaluate(run: &Run, watcher: &mut dyn Watcher) -> Result<()> {
    let sets = held_out::sets(run, Purpose::Evaluation, &|_| true)?;
    let judge = Judge::open(run, EVALUATION, &run.config.evaluate.benchmark, watcher)?;
    let drawn = draw(run, &sets, watcher)?;
    let mut all: Vec<(String, Scores)> = Vec::new();
    let mut swept = Vec::new();
    let mut strict: Vec<(String, Scores)> = Vec::new();
    for drawing in &drawn {
        let own = sets.iter().filter(|set| drawing.arm.sets.contains(&set.name));
        let items: Vec<Item> = own.flat_map(|set| set.items.iter().cloned()).collect();
        let name = &drawing.arm.name;
        let Some(scores) = judge.score(&drawing.place(), &drawing.entries, &items, watcher)? else { continue };
        if drawing.swept.is_none() && run.config.evaluate.benchmark == "shapes" {
            strict.push((name.clone(), shapes::evaluate_as(&drawing.entries, Naming::Strict, run.config.seed)?));
        }
        swept.push((name.clone(), drawing.guidance, scores.clone()));
        if drawing.swept.is_none() {
            all.push((name.clone(), scores));
        }
    }
    judge.complete()?;
    let unswept = drawn.iter().filter(|drawing| drawing.swept.is_none());
    let arms: Vec<(&str, &[Entry])> = unswept.map(|drawing| (&*drawing.arm.name, &*drawing.entries)).collect();
    let columns = scorers::columns(run, &arms, watcher)?;
    let base = all[0].1.clone();
    for (name, scores) in &mut all {
        if name != BASE {
            scores.against = Some(Comparison::of(scores, &base)?);
        }
        scores.write(&run.folder.path(format!("evaluate/{name}/scores.json")))?;
    }
    let mut summary = summary(run, &sets, &all)?;
    summary.scorers = columns;
    if !run.config.evaluate.guidance_sweep.is_empty() {
        summary.sweep = Some(Sweep::of(&swept)?);
    }
    if !strict.is_empty() {
        summary.strict = Some(Strict { arms: means(&strict), comparisons: comparisons(&strict)? });
    }
    atomic::write(&run.folder.path("evaluate/summary.json"), |w| {
        serde_json::to_writer_pretty(&mut *w, &summary)?;
        writeln!(w)
    })
}

/// What an arm drew at one guidance.
struct Drawn {
    arm: Arm,
    /// NaN where it is left to the model's family, which no sweep allows.
    guidance: f64,
    /// The guidance, where it is one of the sweep.
    swept: Option<f64>,
    /// Named from the folder of [`Drawn::place`].
    entries: Vec<Entry>,
}

impl Drawn {
    /// Within `evaluate`.
    fn place(&self) -> String {
        place(&self.arm.name, self.swept)
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

/// Every arm less the base, and what else the paper and the selection are about.
pub(super) fn comparisons(all: &[(String, Scores)]) -> Result<Vec<Compared>> {
    let scores = |name: &str| all.iter().find(|(other, _)| other == name).map(|(_, scores)| scores);
    let selected = format!("{MERGED}{SELECTED}");
    let all_selected = format!("{ALL_IN_ONE}{SELECTED}");
    let mut pairs: Vec<(&str, &str)> = all[1..].iter().map(|(name, _)| (name.as_str(), BASE)).collect();
    pairs.extend([(MERGED, ALL_IN_ONE), (selected.as_str(), MERGED), (selected.as_str(), all_selected.as_str())]);
    let mut comparisons = Vec::new();
    for (ours, theirs) in pairs {
        if let (Some(a), Some(b)) = (scores(ours), scores(theirs)) {
            comparisons.push(Compared { ours: ours.into(), theirs: theirs.into(), comparison: Comparison::of(a, b)? });
        }
    }
    Ok(comparisons)
}

pub(super) fn means(all: &[(String, Scores)]) -> Vec<ArmScores> {
    all.iter().map(ArmScores::of).collect()
}

fn summary(run: &Run, sets: &[Set], all: &[(String, Scores)]) -> Result<Summary> {
    Ok(Summary {
        benchmark: all[0].1.benchmark.clone(),
        judge: all[0].1.judge.clone(),
        prompts: sets.iter().map(|set| set.prompts.len()).max().unwrap_or(0),
        prompts_left_out: held_out::left_out(run)?,
        seeds: run.config.evaluate.seeds,
        arms: means(all),
        comparisons: comparisons(all)?,
        sweep: None,
        strict: None,
        scorers: Vec::new(),
    })
}
