//! Prompts that no expert learns from: some to choose checkpoints by, others to evaluate with.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, json};

use super::{Run, questions};
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
    pub prompts: Vec<Prompt>,
    /// What is asked about their pictures; nothing where the judge knows it by itself.
    pub items: Vec<Item>,
}

/// The names of the sets: the skills, or the benchmark where its prompts are those of a file.
pub(super) fn names(run: &Run) -> Vec<String> {
    let p = run.pipeline;
    match p.evaluate.questions {
        Some(_) => vec![p.evaluate.benchmark.clone()],
        None => p.skills.iter().map(|skill| skill.id.clone()).collect(),
    }
}

/// # Errors
/// [`Error::Failed`] where there are too few prompts; those of the question files.
pub(super) fn sets(run: &Run, purpose: Purpose) -> Result<Vec<Set>> {
    let e = &run.pipeline.evaluate;
    match &e.questions {
        Some(path) => {
            let items = share(run, read(run, path)?, purpose);
            if items.is_empty() {
                return Err(Error::file(path, "has too few prompts for [choose] and [evaluate]"));
            }
            Ok(vec![set(&e.benchmark, items, None)])
        }
        None if e.writes_questions() => {
            let of_skill = |skill: &String| {
                let items = dsg::read(&run.folder.path(questions::file(skill, purpose)))?;
                Ok(set(skill, items, Some(skill)))
            };
            names(run).iter().map(of_skill).collect()
        }
        None => captions(run, purpose),
    }
}

/// All items that pictures of this run can be of: what a file of answers may speak of.
///
/// # Errors
/// As [`sets`].
pub(super) fn items(run: &Run) -> Result<Vec<Item>> {
    match &run.pipeline.evaluate.questions {
        Some(path) => read(run, path),
        None => {
            let mut all = sets(run, Purpose::Evaluation)?;
            if run.pipeline.choose.is_some() {
                all.extend(sets(run, Purpose::Choice)?);
            }
            Ok(all.into_iter().flat_map(|set| set.items).collect())
        }
    }
}

/// Prompts of one set, as far as that can be told before they are written.
///
/// # Errors
/// As [`sets`].
pub(super) fn count(run: &Run, purpose: Purpose) -> Result<usize> {
    let p = run.pipeline;
    match (&p.evaluate.questions, purpose) {
        (Some(path), _) => Ok(share(run, read(run, path)?, purpose).len()),
        (None, Purpose::Evaluation) => Ok(p.evaluate.prompts_a_skill()),
        (None, Purpose::Choice) => Ok(p.choose.as_ref().map_or(0, |choose| choose.prompts)),
    }
}

fn read(run: &Run, path: &Path) -> Result<Vec<Item>> {
    match run.pipeline.evaluate.benchmark.as_str() {
        "tifa" => tifa::read(path),
        _ => dsg::read(path),
    }
}

fn set(name: &str, items: Vec<Item>, skill: Option<&String>) -> Set {
    let prompt = |item: &Item| {
        let mut rest = Map::from_iter([("item_id".to_string(), json!(item.id))]);
        rest.extend(skill.map(|skill| ("skill".to_string(), json!(skill))));
        Prompt {
            text: item.prompt.clone(),
            rest,
        }
    };
    Set {
        name: name.into(),
        prompts: items.iter().map(prompt).collect(),
        items,
    }
}

/// The items of a file that serve `purpose`, spread evenly over it: its parts test different things.
fn share(run: &Run, items: Vec<Item>, purpose: Purpose) -> Vec<Item> {
    let chosen_by = run.pipeline.choose.as_ref().map_or(0, |choose| choose.prompts);
    let (choice, rest) = spread(items, chosen_by);
    match purpose {
        Purpose::Choice => choice,
        Purpose::Evaluation => match run.pipeline.evaluate.prompts {
            Some(count) => spread(rest, count).0,
            None => rest,
        },
    }
}

/// `count` of `items` at even distances, and the others.
fn spread(items: Vec<Item>, count: usize) -> (Vec<Item>, Vec<Item>) {
    let all = items.len();
    let taken: BTreeSet<usize> = (0..count.min(all)).map(|i| i * all / count.min(all)).collect();
    let (mut chosen, mut others) = (Vec::new(), Vec::new());
    for (i, item) in items.into_iter().enumerate() {
        match taken.contains(&i) {
            true => chosen.push(item),
            false => others.push(item),
        }
    }
    (chosen, others)
}

/// Different captions of the built-in world that no expert has seen.
fn captions(run: &Run, purpose: Purpose) -> Result<Vec<Set>> {
    /// Captions that are looked at for one that is new.
    const TRIES: u64 = 200;
    let [chosen_by, evaluated] = [count(run, Purpose::Choice)?, count(run, Purpose::Evaluation)?];
    let wanted = chosen_by + evaluated;
    let (mut seen, mut sets) = (BTreeSet::new(), Vec::new());
    for skill in &run.pipeline.skills {
        let world = shapes::Skill::from_name(&skill.id)?;
        let captions = (0..TRIES * wanted as u64).map(|i| world.prompt(Split::HeldOut, run.pipeline.seed, i).caption);
        let new = captions.filter(|caption| seen.insert(caption.clone()));
        let mut prompts: Vec<Prompt> = new
            .take(wanted)
            .map(|text| Prompt {
                text,
                rest: Map::from_iter([("skill".to_string(), json!(skill.id))]),
            })
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
            prompts: if purpose == Purpose::Choice { prompts } else { evaluated },
            items: Vec::new(),
        });
    }
    Ok(sets)
}
