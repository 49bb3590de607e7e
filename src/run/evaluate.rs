//! Stage `evaluate`: what the base model, the experts and their merge draw of held-out prompts, all from the same noise,
//! and how well the pictures show what the prompts say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::images::Painter;
use super::pipeline::ALL_IN_ONE;
use super::plan::SELECTED;
use super::{Run, merge};
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::folder;
use crate::evaluate::scores::Scores;
use crate::evaluate::shapes as judge;
use crate::evaluate::statistics::Estimate;
use crate::formats::atomic;
use crate::shapes::{self, Split};
use crate::train::watcher::Watcher;

/// What is compared.
pub const BASE: &str = "base";
pub const MERGED: &str = "merged";

/// One model that is evaluated.
pub(super) struct Arm {
    pub name: String,
    /// Relative to the folder of the run; none for the model as it is.
    pub lora: Option<PathBuf>,
    /// The skills whose prompts it draws.
    pub skills: Vec<String>,
}

/// The means of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmScores {
    pub name: String,
    pub overall: Estimate,
    pub skills: BTreeMap<String, Estimate>,
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
    pub prompts: usize,
    pub seeds: u64,
    pub arms: Vec<ArmScores>,
    pub comparisons: Vec<Compared>,
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

/// The settings that decide the scores.
pub(super) fn decides(run: &Run) -> Result<String> {
    let e = &run.pipeline.evaluate;
    let skills: Vec<&str> = run.pipeline.skills.iter().map(|skill| skill.id.as_str()).collect();
    Ok(format!(
        "{} {}",
        json!([skills, e.benchmark, e.prompts, e.seeds]),
        run.draws(&e.draw)
    ))
}

/// Base, all-in-one and merged on every skill; each expert on its own.
pub(super) fn arms(run: &Run) -> Vec<Arm> {
    let p = run.pipeline;
    let skills: Vec<String> = p.skills.iter().map(|skill| skill.id.clone()).collect();
    let arm = |name: &str, lora: Option<String>, skills: &[String]| Arm {
        name: name.into(),
        lora: lora.map(|folder| Path::new(&folder).join("lora.safetensors")),
        skills: skills.to_vec(),
    };
    let mut arms = vec![arm(BASE, None, &skills)];
    if p.all_in_one {
        arms.push(arm(ALL_IN_ONE, Some(format!("experts/{ALL_IN_ONE}")), &skills));
    }
    arms.push(arm(MERGED, Some(merge::folder("")), &skills));
    if p.select.is_some() {
        let folder = merge::folder(&SELECTED[1..]);
        arms.push(arm(&format!("{MERGED}{SELECTED}"), Some(folder), &skills));
    }
    for skill in &skills {
        let own = std::slice::from_ref(skill);
        arms.push(arm(&expert(skill), Some(format!("experts/{skill}")), own));
    }
    arms
}

/// The arm of a skill's expert.
pub(super) fn expert(skill: &str) -> String {
    format!("expert-{skill}")
}

/// Where an arm's pictures of one skill from one seed are.
pub(super) fn pictures(arm: &str, skill: &str, seed: u64) -> String {
    format!("evaluate/{arm}/{skill}/seed-{seed}")
}

/// # Errors
/// Those of drawing and scoring; [`Error::Interrupted`].
pub(super) fn evaluate(run: &Run, watcher: &mut dyn Watcher) -> Result<()> {
    let settings = &run.pipeline.evaluate;
    let prompts = held_out(run)?;
    let seeds = || run.pipeline.seed..run.pipeline.seed + settings.seeds;
    let mut painter = Painter::load(run, &run.pipeline.experts.model, None, &settings.draw)?;
    let mut all: Vec<(String, Scores)> = Vec::new();
    for arm in arms(run) {
        watcher.note(&format!("evaluate: {}", arm.name));
        let lora = arm.lora.as_ref().map(|lora| run.folder.path(lora));
        painter.wear(lora.as_deref())?;
        let mut entries = Vec::new();
        for skill in &arm.skills {
            for seed in seeds() {
                let relative = pictures(&arm.name, skill, seed);
                let dir = run.folder.path(&relative);
                painter.draw(&prompts[skill], seed, &dir, watcher)?;
                let (mut here, _) = folder::list(&dir)?;
                for entry in &mut here {
                    entry.file_name = format!("{skill}/seed-{seed}/{}", entry.file_name);
                }
                entries.extend(here);
            }
        }
        let mut scores = judge::evaluate(&entries, run.pipeline.seed)?;
        if let Some((_, base)) = all.first() {
            scores.against = Some(Comparison::of(&scores, base)?);
        }
        scores.write(&run.folder.path(format!("evaluate/{}/scores.json", arm.name)))?;
        all.push((arm.name, scores));
    }
    let summary = summary(run, &all)?;
    atomic::write(&run.folder.path("evaluate/summary.json"), |w| {
        serde_json::to_writer_pretty(&mut *w, &summary)?;
        writeln!(w)
    })
}

fn summary(run: &Run, all: &[(String, Scores)]) -> Result<Summary> {
    let scores = |name: &str| all.iter().find(|(other, _)| other == name).map(|(_, scores)| scores);
    let selected = format!("{MERGED}{SELECTED}");
    let mut pairs: Vec<(&str, &str)> = all[1..].iter().map(|(name, _)| (name.as_str(), BASE)).collect();
    pairs.extend([(MERGED, ALL_IN_ONE), (selected.as_str(), MERGED)]);
    let mut comparisons = Vec::new();
    for (ours, theirs) in pairs {
        if let (Some(a), Some(b)) = (scores(ours), scores(theirs)) {
            comparisons.push(Compared {
                ours: ours.into(),
                theirs: theirs.into(),
                comparison: Comparison::of(a, b)?,
            });
        }
    }
    let means = |(name, scores): &(String, Scores)| ArmScores {
        name: name.clone(),
        overall: scores.overall,
        skills: scores.skills.clone(),
    };
    Ok(Summary {
        benchmark: all[0].1.benchmark.clone(),
        judge: all[0].1.judge.clone(),
        prompts: run.pipeline.evaluate.prompts,
        seeds: run.pipeline.evaluate.seeds,
        arms: all.iter().map(means).collect(),
        comparisons,
    })
}

/// Different captions of the built-in world that no expert has seen, by skill.
fn held_out(run: &Run) -> Result<BTreeMap<String, Vec<Prompt>>> {
    /// Captions that are looked at for one that is new.
    const TRIES: u64 = 200;
    let count = run.pipeline.evaluate.prompts;
    let (mut seen, mut all) = (BTreeSet::new(), BTreeMap::new());
    for skill in &run.pipeline.skills {
        let world = shapes::Skill::from_name(&skill.id)?;
        let captions = (0..TRIES * count as u64).map(|i| world.prompt(Split::HeldOut, run.pipeline.seed, i).caption);
        let mut prompts = Vec::new();
        for text in captions.filter(|caption| seen.insert(caption.clone())).take(count) {
            let rest = Map::from_iter([("skill".to_string(), json!(skill.id))]);
            prompts.push(Prompt { text, rest });
        }
        if prompts.len() < count {
            return Err(Error::Failed(format!(
                "{} has {} held-out captions, and [evaluate] prompts is {count}; lower it",
                skill.id,
                prompts.len()
            )));
        }
        all.insert(skill.id.clone(), prompts);
    }
    Ok(all)
}
