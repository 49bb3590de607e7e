//! Prompts that no expert learns from: some to choose checkpoints by, others to evaluate with.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, json};

use super::Run;
use super::question_set::QuestionSet;
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::evaluate::questions::{Item, dsg, tifa};
use crate::shapes::{self, Split};

/// What the prompts are for. None serves both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Choice,
    Evaluation,
}

/// Prompts that belong together: those of a skill, or those of a file.
pub(super) struct Set {
    /// The skill, or the benchmark.
    pub name: String,
    /// What its images are scored by.
    pub benchmark: String,
    pub prompts: Vec<Prompt>,
    /// What is asked about their images; nothing where the judge knows it by itself.
    pub items: Vec<Item>,
}

/// The names of the sets: the skills, or the benchmark where a file's prompts are evaluated.
pub(super) fn names(run: &Run, purpose: Purpose) -> Vec<String> {
    let e = &run.config.evaluate;
    let of = |benchmark: &String| match e.file(benchmark) {
        Some(_) => vec![benchmark.clone()],
        None => skills(run),
    };
    match purpose {
        Purpose::Evaluation => e.benchmarks().iter().flat_map(of).collect(),
        Purpose::Choice => skills(run),
    }
}

fn skills(run: &Run) -> Vec<String> {
    run.config.skills.iter().map(|skill| skill.id.clone()).collect()
}

/// Those whose name is `wanted`.
///
/// # Errors
/// [`Error::Failed`] where there are too few prompts; those of the question files.
pub(super) fn sets(run: &Run, purpose: Purpose, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Set>> {
    let e = &run.config.evaluate;
    let own = || match e.asks() {
        true => {
            let of_skill =
                |skill: &String| Ok(set(skill, written(run, skill, QuestionSet::HeldOut(purpose))?, Some(skill)));
            skills(run).iter().filter(|name| wanted(name)).map(of_skill).collect()
        }
        false => captions(run, purpose),
    };
    let mut sets = Vec::new();
    match purpose {
        Purpose::Choice => sets = own()?,
        Purpose::Evaluation => {
            for benchmark in e.benchmarks() {
                match e.file(benchmark) {
                    Some(path) => sets.push(set(benchmark, share(run, read(benchmark, path)?), None)),
                    None => sets.extend(own()?),
                }
            }
        }
    }
    sets.retain(|set| wanted(&set.name));
    Ok(sets)
}

/// Finds out before anything is drawn whether there are prompts to evaluate.
///
/// # Errors
/// As [`sets`].
pub(super) fn check(run: &Run) -> Result<()> {
    let e = &run.config.evaluate;
    for benchmark in e.benchmarks() {
        match e.file(benchmark) {
            Some(path) => drop(read(benchmark, path)?),
            None if run.config.evaluates() && !e.asks() => drop(captions(run, Purpose::Evaluation)?),
            None => {}
        }
    }
    Ok(())
}

/// What the run wrote to ask about images of a skill.
///
/// # Errors
/// As [`dsg::read`].
pub(super) fn written(run: &Run, skill: &str, set: QuestionSet) -> Result<Vec<Item>> {
    dsg::read(&run.folder.path(set.file(skill)))
}

/// All items that images of this run can be of: what a file of answers may speak of.
///
/// # Errors
/// As [`sets`]; [`Error::Usage`] for an id that two benchmarks have: whose answers are meant cannot be told.
pub(super) fn items(run: &Run) -> Result<Vec<Item>> {
    let e = &run.config.evaluate;
    let of_file = e.benchmarks().iter().filter_map(|name| Some(read(name, e.file(name)?)));
    let skills = || run.config.skills.iter().map(|skill| skill.id.as_str());
    let sets = QuestionSet::of_run(run).into_iter();
    let of_run = sets.flat_map(|set| skills().map(move |skill| written(run, skill, set)));
    let all: Vec<Vec<Item>> = of_file.chain(of_run).collect::<Result<_>>()?;
    let mut ids = BTreeSet::new();
    let twice = all.iter().flatten().find(|item| !ids.insert(item.id.as_str()));
    if let Some(item) = twice.filter(|_| e.benchmarks().len() > 1) {
        return Err(Error::Usage(format!(
            "[judge]: answers: the item {} is in the questions of two benchmarks, so that a file of answers cannot tell them \
             apart; evaluate them in runs of their own, or let url or blip-vqa answer",
            item.id
        )));
    }
    Ok(all.concat())
}

/// Prompts of the evaluation's file that are not drawn, because the pipeline asks for fewer.
///
/// # Errors
/// Those of the question file.
pub(super) fn left_out(run: &Run, benchmark: &str) -> Result<usize> {
    match run.config.evaluate.file(benchmark) {
        Some(path) => {
            let all = read(benchmark, path)?;
            let count = all.len();
            Ok(count - share(run, all).len())
        }
        None => Ok(0),
    }
}

/// Prompts of the set `name`, as far as that can be told before they are written.
///
/// # Errors
/// As [`sets`].
pub(super) fn count(run: &Run, purpose: Purpose, name: &str) -> Result<usize> {
    let p = run.config;
    match (p.evaluate.file(name), purpose) {
        (Some(path), Purpose::Evaluation) => Ok(share(run, read(name, path)?).len()),
        (None, Purpose::Evaluation) => Ok(p.evaluate.prompts_a_skill()),
        (_, Purpose::Choice) => Ok(p.choose.as_ref().map_or(0, |choose| choose.prompts)),
    }
}

fn read(benchmark: &str, path: &Path) -> Result<Vec<Item>> {
    match benchmark {
        "tifa" => tifa::read(path),
        _ => dsg::read(path),
    }
}

fn set(name: &str, items: Vec<Item>, skill: Option<&String>) -> Set {
    let prompt = |item: &Item| {
        let mut rest = Map::from_iter([("item_id".to_string(), json!(item.id))]);
        rest.extend(skill.map(|skill| ("skill".to_string(), json!(skill))));
        Prompt { text: item.prompt.clone(), rest }
    };
    let benchmark = if skill.is_some() { "dsg" } else { name };
    Set { name: name.into(), benchmark: benchmark.into(), prompts: items.iter().map(prompt).collect(), items }
}

/// The items of a file that are evaluated, spread evenly over it where they are not all: its parts test different things.
fn share(run: &Run, items: Vec<Item>) -> Vec<Item> {
    let all = items.len();
    let count = run.config.evaluate.prompts.map_or(all, |count| count.min(all));
    (0..count).map(|i| items[i * all / count].clone()).collect()
}

/// Different captions of the built-in world that no expert has seen.
fn captions(run: &Run, purpose: Purpose) -> Result<Vec<Set>> {
    /// Captions that are looked at for one that is new.
    const TRIES: u64 = 200;
    let [chosen_by, evaluated] = [count(run, Purpose::Choice, "")?, count(run, Purpose::Evaluation, "")?];
    let wanted = chosen_by + evaluated;
    let (mut seen, mut sets) = (BTreeSet::new(), Vec::new());
    for skill in &run.config.skills {
        let world = shapes::Skill::from_name(&skill.id)?;
        let captions = (0..TRIES * wanted as u64).map(|i| world.prompt(Split::HeldOut, run.config.seed, i).caption);
        let new = captions.filter(|caption| seen.insert(caption.clone()));
        let mut prompts: Vec<Prompt> = new
            .take(wanted)
            .map(|text| Prompt { text, rest: Map::from_iter([("skill".to_string(), json!(skill.id))]) })
            .collect();
        if prompts.len() < wanted {
            return Err(Error::Failed(format!(
                "{} has {} held-out captions, and {wanted} are wanted in [evaluate] and [choose]; lower `prompts`",
                skill.id,
                prompts.len()
            )));
        }
        let evaluated = prompts.split_off(chosen_by);
        sets.push(Set {
            name: skill.id.clone(),
            benchmark: run.config.evaluate.own_benchmark().into(),
            prompts: if purpose == Purpose::Choice { prompts } else { evaluated },
            items: Vec::new(),
        });
    }
    Ok(sets)
}
