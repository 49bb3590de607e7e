//! Stage `prompts`: as many captions as asked for each skill, none too similar to another.

use serde_json::json;

use super::estimate::{Costs, Effort};
use super::folder::{Inputs, Paths};
use super::plan::put;
use super::stage::{Stage, Task, Work};
use super::{ActiveTask, Run};
use crate::error::{Error, Result};
use crate::formats::content_hash;
use crate::formats::digest;
use crate::prompting::llm::{EndpointOptions, Role};
use crate::prompting::prompts::{self, Ask, Collector, Options};
use crate::prompting::writer::{Endpoint, Replay, Writer, collect};
use crate::prompting::{Record, Skill, builtin};
use crate::train::watcher::Watcher;

pub(super) struct Prompts;

impl Work for Prompts {
    fn tasks(&self, run: &Run) -> Vec<Task> {
        run.task_a_skill(Stage::Prompts)
    }

    fn needs(&self, _: &Run, _: &Task) -> Vec<Task> {
        Vec::new()
    }

    fn inputs(&self, run: &Run, task: &Task, inputs: &mut Inputs) -> Result<Paths> {
        let (part, s) = (task.part(), &run.config.prompts);
        let skill = run.config.skills.iter().find(|skill| skill.id == part);
        put(inputs, "skill", content_hash::of_bytes(format!("{skill:?}").as_bytes()));
        let decides = json!([s.count, s.writer, s.llm_model, s.max_similarity, s.strict_words]);
        put(inputs, "settings", decides.to_string());
        if let Some(folder) = &s.replay {
            put(inputs, "replay", digest::file(&folder.join(format!("{part}.replies.jsonl")))?);
        }
        // The recording of an endpoint's replies is no output: it was paid for, and is never removed.
        Ok(Paths::one(&format!("prompts/{part}.json")))
    }

    fn estimate(&self, run: &Run, _: &Task, _: &Costs) -> Result<Effort> {
        let count = run.config.prompts.count;
        Ok(Effort { work: format!("{count} prompts"), bytes: count as u64 * 200, seconds: 0.0 })
    }

    fn work(&self, run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()> {
        tasks.into_iter().try_for_each(|task| {
            write(run, task.part(), watcher)?;
            run.finish(task)
        })
    }
}

/// Writes `prompts/SKILL.json`.
///
/// # Errors
/// Those of the writer; [`Error::Interrupted`].
fn write(run: &Run, id: &str, watcher: &mut dyn Watcher) -> Result<()> {
    let kept = captions(run, id, run.config.prompts.count, watcher)?;
    prompts::write(&run.folder.path(format!("prompts/{id}.json")), &kept)
}

/// The first `count` captions of a skill: of more, the first are the same.
///
/// # Errors
/// As [`write`].
pub(super) fn captions(run: &Run, id: &str, count: usize, watcher: &mut dyn Watcher) -> Result<Vec<String>> {
    let settings = &run.config.prompts;
    let skill = run.config.skills.iter().find(|skill| skill.id == id);
    let skill = skill.expect("a task belongs to a skill of the run");
    match source(run, &format!("{id}.replies.jsonl"), Role::Writer, watcher)? {
        Some(mut writer) => ask(run, skill, count, writer.as_mut(), watcher),
        None => builtin::captions(id, count, settings.max_similarity, run.config.seed),
    }
}

/// Who writes: the endpoint, whose replies are recorded in `prompts/RECORDING`, or that file of the folder with recorded
/// replies. None for what is built in.
///
/// # Errors
/// As [`Endpoint::counted`] and [`Replay::open`].
pub(super) fn source(
    run: &Run,
    recording: &str,
    role: Role,
    watcher: &mut dyn Watcher,
) -> Result<Option<Box<dyn Writer>>> {
    let settings = &run.config.prompts;
    let folder = run.folder.path("prompts");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    Ok(match (&settings.replay, &settings.llm) {
        (Some(folder), _) => Some(Box::new(Replay::open(&folder.join(recording))?)),
        (None, Some(url)) => {
            let model = settings.llm_model.as_deref().unwrap_or_default();
            // Questions are asked at temperature 0, whatever that of captions is.
            let temperature = settings.endpoint.temperature.filter(|_| role == Role::Writer);
            let endpoint = EndpointOptions { temperature, ..settings.endpoint.clone() };
            let client = endpoint.client(role, "--llm", url, model, None)?;
            let client = client.with_budget(run.budget_of_writer());
            client.warn_of_key(|text| watcher.note(text));
            Some(Box::new(Endpoint::counted(client, &folder.join(recording))?))
        }
        (None, None) => None,
    })
}

fn ask(
    run: &Run,
    skill: &Skill,
    count: usize,
    writer: &mut dyn Writer,
    watcher: &mut dyn Watcher,
) -> Result<Vec<String>> {
    let s = &run.config.prompts;
    let options = Options {
        count,
        seed: run.config.seed,
        max_similarity: s.max_similarity,
        requests_per_round: s.endpoint.parallel(Role::Writer),
        max_stalled: s.max_stalled,
        strict_words: s.strict_words,
    };
    let mut collector = Collector::new(skill, &options);
    let mut writer = Stoppable { writer, watcher };
    collect(&mut collector, &mut writer, &mut |_| ())?;
    writer.watcher.prepared("prompts", count, count);
    let counts = collector.counts();
    writer.watcher.note(&format!(
        "{}: {} prompts from {} replies; {} captions were too similar, {} lines were not understood",
        skill.id, counts.kept, counts.requests, counts.too_similar, counts.lines_not_understood
    ));
    Ok(collector.prompts().to_vec())
}

/// A writer that can be stopped between rounds.
pub(super) struct Stoppable<'a> {
    pub writer: &'a mut dyn Writer,
    pub watcher: &'a mut dyn Watcher,
}

impl Writer for Stoppable<'_> {
    fn answer(&mut self, asks: &[Ask]) -> Result<Vec<Record>> {
        if self.watcher.stopped() {
            let message = "stopped; every reply so far is recorded, and the same command goes on";
            return Err(Error::Interrupted(message.into()));
        }
        self.writer.answer(asks)
    }
}
