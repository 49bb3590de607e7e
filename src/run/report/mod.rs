//! Stage `report`: one page that needs nothing but itself, `report.html`.

mod beside;
mod columns;
mod examples;
mod page;
mod scores;

use std::collections::BTreeMap;

use super::best_checkpoint::Choice;
use super::estimate::{Costs, Effort};
use super::evaluate::BASE;
use super::folder::{Inputs, Paths};
use super::scored::scores_file;
use super::stage::{Stage, Task, Work};
use super::summary::{ArmScores, Summary};
use super::{ActiveTask, Run};
use crate::data::prompts;
use crate::error::Result;
use crate::evaluate::question_scores::Asked;
use crate::evaluate::scores::{ScoredImage, Scores};
use crate::formats::{atomic, jsonl};
use crate::train::watcher::Watcher;

/// The file in the folder of the run.
pub const NAME: &str = "report.html";

pub(super) struct Report;

impl Work for Report {
    fn tasks(&self, _: &Run) -> Vec<Task> {
        vec![Task::whole(Stage::Report)]
    }

    fn needs(&self, run: &Run, _: &Task) -> Vec<Task> {
        let mut all = run.tasks();
        all.retain(|task| task.stage != Stage::Report);
        all
    }

    fn inputs(&self, _: &Run, _: &Task, _: &mut Inputs) -> Result<Paths> {
        Ok(Paths::one(NAME))
    }

    fn estimate(&self, _: &Run, _: &Task, _: &Costs) -> Result<Effort> {
        Ok(Effort { work: "1 page".into(), bytes: 4 << 20, seconds: 0.0 })
    }

    fn work(&self, run: &Run, tasks: Vec<ActiveTask>, _: &mut dyn Watcher) -> Result<()> {
        tasks.into_iter().try_for_each(|task| {
            write(run)?;
            run.finish(task)
        })
    }
}

/// All that the page tells of, as read from the folder.
struct Contents<'a> {
    run: &'a Run<'a>,
    /// None where nothing was evaluated.
    summary: Option<Summary>,
    /// By arm, of the first benchmark.
    scores: BTreeMap<String, Scores>,
    /// The same of the others.
    further: Vec<BTreeMap<String, Scores>>,
    /// The loss at each step, by expert.
    losses: Vec<(String, Vec<(u64, f64)>)>,
    /// By expert, where checkpoints were chosen.
    choices: Vec<(String, Choice)>,
    /// By skill.
    prompts: BTreeMap<String, Vec<String>>,
    /// What was done, and the seconds that it took.
    times: Vec<(String, f64)>,
}

/// Writes the page from what the other stages left.
///
/// # Errors
/// [`crate::Error::Io`] and [`crate::Error::File`] for what cannot be read.
fn write(run: &Run) -> Result<()> {
    let contents = Contents::read(run)?;
    let page = page::page(&contents)?.into_string();
    atomic::write_bytes(&run.folder.path(NAME), page.as_bytes())
}

impl<'a> Contents<'a> {
    /// What is said of a benchmark's questions.
    fn asked(&self, benchmark: &str) -> Option<&Asked> {
        let base = std::iter::once(&self.scores).chain(&self.further).filter_map(|scores| scores.get(BASE));
        base.filter(|scores| scores.benchmark == benchmark).find_map(|scores| scores.asked.as_ref())
    }

    /// The scored images of an arm, by whatever benchmark.
    fn images(&self, arm: &str) -> impl Iterator<Item = &ScoredImage> {
        let all = std::iter::once(&self.scores).chain(&self.further);
        all.filter_map(move |scores| scores.get(arm)).flat_map(|scores| &scores.images)
    }

    fn read(run: &'a Run<'a>) -> Result<Self> {
        let summary = match run.config.evaluates() {
            true => Some(Summary::read(&run.folder.path("evaluate/summary.json"))?),
            false => None,
        };
        let mut all = Vec::new();
        for one in summary.iter().flat_map(Summary::benchmarks) {
            let read = |arm: &ArmScores| {
                let path = run.folder.path(scores_file(run, &arm.name, &one.benchmark));
                Ok((arm.name.clone(), Scores::read(&path)?))
            };
            all.push(one.arms.iter().map(read).collect::<Result<BTreeMap<_, _>>>()?);
        }
        let mut all = all.into_iter();
        let scores = all.next().unwrap_or_default();
        let further = all.collect();
        let (mut losses, mut choices) = (Vec::new(), Vec::new());
        for task in Stage::Experts.definition().tasks(run) {
            let part = task.part.unwrap_or_default();
            let path = run.folder.path(format!("experts/{part}/metrics.jsonl"));
            let point = |(_, row): (usize, serde_json::Value)| Some((row["step"].as_u64()?, row["loss"].as_f64()?));
            let points = jsonl::read(&path)?.into_iter().filter_map(point).collect();
            if run.config.choose.is_some() {
                choices.push((part.clone(), Choice::read(run, &part)?));
            }
            losses.push((part, points));
        }
        let mut written = BTreeMap::new();
        for skill in &run.config.skills {
            let read = prompts::read(&run.folder.path(format!("prompts/{}.json", skill.id)))?;
            written.insert(skill.id.clone(), read.into_iter().map(|prompt| prompt.text).collect());
        }
        let times = run.tasks().into_iter().filter(|task| task.stage != Stage::Report);
        let times = times.map(|task| {
            let record = run.folder.record(&task);
            (task.to_string(), record.map_or(0.0, |record| record.seconds))
        });
        Ok(Self { summary, scores, further, losses, choices, prompts: written, times: times.collect(), run })
    }
}
