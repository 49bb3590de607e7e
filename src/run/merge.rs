//! Stage `merge`: the experts of all skills become one LoRA.

use std::path::Path;

use super::estimate::{Costs, Effort};
use super::folder::{Inputs, Paths};
use super::plan::{SELECTED, put};
use super::stage::{Stage, Task, Work};
use super::{ActiveTask, Run};
use crate::error::{Error, Result};
use crate::lora::merge::{Method, merge};
use crate::lora::{Expert, base, load, provenance, save};
use crate::prompting::Skill;
use crate::train::watcher::Watcher;

pub(super) struct Merge;

impl Work for Merge {
    fn tasks(&self, run: &Run) -> Vec<Task> {
        let selected = run.config.select.as_ref().map(|_| Task::new(Stage::Merge, &SELECTED[1..]));
        std::iter::once(Task::whole(Stage::Merge)).chain(selected).collect()
    }

    fn needs(&self, run: &Run, task: &Task) -> Vec<Task> {
        let expert = |skill: &Skill| Task::new(Stage::Experts, &format!("{}{}", skill.id, ending(task.part())));
        run.config.skills.iter().map(expert).collect()
    }

    fn inputs(&self, run: &Run, task: &Task, inputs: &mut Inputs) -> Result<Paths> {
        put(inputs, "settings", format!("{:?}", run.config.merge));
        Ok(Paths::one(&folder(task.part())))
    }

    fn estimate(&self, run: &Run, _: &Task, _: &Costs) -> Result<Effort> {
        let bytes = run.lora_bytes()? * run.config.skills.len() as u64;
        Ok(Effort { work: "1 LoRA".into(), bytes, seconds: 0.0 })
    }

    fn work(&self, run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()> {
        tasks.into_iter().try_for_each(|task| {
            merge_experts(run, task.part(), watcher)?;
            run.finish(task)
        })
    }
}

/// Of the experts that are merged: the selected ones have their own.
fn ending(part: &str) -> &'static str {
    if part.is_empty() { "" } else { SELECTED }
}

/// Where a merge is; `part` is empty for the plain one.
pub(super) fn folder(part: &str) -> String {
    match part {
        "" => "merge/plain".into(),
        part => format!("merge/{part}"),
    }
}

/// Writes `merge/plain/lora.safetensors`, or that of the selected experts.
///
/// # Errors
/// As [`merge`]; [`Error::Io`].
fn merge_experts(run: &Run, part: &str, watcher: &mut dyn Watcher) -> Result<()> {
    let ending = ending(part);
    let modules = base::modules(Path::new(&run.config.experts.model))?;
    let mut loaded = Vec::new();
    for skill in &run.config.skills {
        let path = run.folder.path(format!("experts/{}{ending}/lora.safetensors", skill.id));
        loaded.push(load(&path, Some(&modules), false)?);
    }
    let options = &run.config.merge;
    let weight = match options.method {
        Method::Average => 1.0 / loaded.len() as f64,
        _ => 1.0,
    };
    let pairs: Vec<(&Expert, f64)> = loaded.iter().map(|lora| (&lora.expert, weight)).collect();
    let merged = merge(&pairs, options)?;
    let mut metadata = provenance::of_merge(&loaded, &vec![weight; loaded.len()], options)?;
    metadata.extend(provenance::errors(&merged));
    metadata.extend(provenance::prediction(Path::new(&run.config.experts.model))?);
    let out = run.folder.path(folder(part));
    std::fs::create_dir_all(&out).map_err(|e| Error::io(&out, e))?;
    save::diffusers(&out.join("lora.safetensors"), &merged.expert, &metadata)?;
    watcher.note(&format!("{} experts as one LoRA: relative error {:.2e}", loaded.len(), merged.relative_error));
    Ok(())
}
