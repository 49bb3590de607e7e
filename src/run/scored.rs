//! The scores of an evaluation by one of its benchmarks.

use super::Run;
use super::evaluate::{BASE, Drawn, arm_names};
use super::held_out::{self, Set};
use super::judge::Judge;
use super::summary::{Summary, comparisons, means};
use super::sweep::{Strict, Sweep};
use crate::error::{Error, Result};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::questions::Item;
use crate::evaluate::scores::Scores;
use crate::evaluate::shapes;
use crate::shapes::judge::Naming;
use crate::train::watcher::Watcher;

/// Where the scores of an arm by a benchmark are, within the folder of the run.
pub(super) fn scores_file(run: &Run, arm: &str, benchmark: &str) -> String {
    match run.config.evaluate.benchmarks().first().is_some_and(|first| first == benchmark) {
        true => format!("evaluate/{arm}/scores.json"),
        false => format!("evaluate/{arm}/scores.{benchmark}.json"),
    }
}

/// Removes the scores by benchmarks that the run file named before.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn discard_others(run: &Run) -> Result<()> {
    let now = run.config.evaluate.benchmarks();
    for benchmark in ["dsg", "tifa"] {
        let further = now.iter().skip(1).any(|name| name == benchmark);
        for arm in arm_names(run).iter().filter(|_| !further) {
            let path = run.folder.path(format!("evaluate/{arm}/scores.{benchmark}.json"));
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, e)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// What the arms score by one benchmark.
#[derive(Default)]
pub(super) struct Scored {
    all: Vec<(String, Scores)>,
    /// The same and other guidances.
    swept: Vec<(String, f64, Scores)>,
    strict: Vec<(String, Scores)>,
}

impl Scored {
    /// An arm whose answers a file lacks is left out, and [`Judge::complete`] tells.
    ///
    /// # Errors
    /// As [`Judge::score`].
    pub fn of(
        run: &Run,
        judge: &Judge,
        benchmark: &str,
        sets: &[&Set],
        drawn: &[Drawn],
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        let mut scored = Self::default();
        for drawing in drawn {
            let entries = drawing.of(sets);
            if entries.is_empty() {
                continue;
            }
            let own = sets.iter().filter(|set| drawing.arm.sets.contains(&set.name));
            let items: Vec<Item> = own.flat_map(|set| set.items.iter().cloned()).collect();
            let name = &drawing.arm.name;
            let Some(scores) = judge.score(benchmark, &drawing.place(), &entries, &items, watcher)? else { continue };
            if drawing.swept.is_none() && benchmark == "shapes" {
                scored.strict.push((name.clone(), shapes::evaluate_as(&entries, Naming::Strict, run.config.seed)?));
            }
            scored.swept.push((name.clone(), drawing.guidance, scores.clone()));
            if drawing.swept.is_none() {
                scored.all.push((name.clone(), scores));
            }
        }
        Ok(scored)
    }

    /// Writes the scores of every arm, and sums them up.
    ///
    /// # Errors
    /// [`Error::Io`]; as [`Comparison::of`].
    pub fn finish(mut self, run: &Run, benchmark: &str, sets: &[&Set]) -> Result<Summary> {
        let base = self.all[0].1.clone();
        for (name, scores) in &mut self.all {
            if name != BASE {
                scores.against = Some(Comparison::of(scores, &base)?);
            }
            scores.write(&run.folder.path(scores_file(run, name, benchmark)))?;
        }
        Ok(Summary {
            benchmark: base.benchmark,
            judge: base.judge,
            prompts: sets.iter().map(|set| set.prompts.len()).max().unwrap_or(0),
            prompts_left_out: held_out::left_out(run, benchmark)?,
            seeds: run.config.evaluate.seeds,
            arms: means(&self.all),
            comparisons: comparisons(&self.all)?,
            sweep: (!run.config.evaluate.guidance_sweep.is_empty()).then(|| Sweep::of(&self.swept)).transpose()?,
            strict: match self.strict.is_empty() {
                true => None,
                false => Some(Strict { arms: means(&self.strict), comparisons: comparisons(&self.strict)? }),
            },
            scorers: Vec::new(),
            further: Vec::new(),
        })
    }
}
