//! Stage `experts`: a LoRA for each skill, and one for all skills together. The base model is loaded once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::choose::{self, Trained};
use super::pipeline::ALL_IN_ONE;
use super::plan::SELECTED;
use super::{Run, Task};
use crate::error::{Error, Result};
use crate::formats::{atomic, jsonl};
use crate::nn::UNet;
use crate::train::config::TrainConfig;
use crate::train::preparation::Preparation;
use crate::train::trainer::Trainer;
use crate::train::watcher::Watcher;

/// The settings of one expert.
pub(super) fn config(run: &Run, part: &str) -> TrainConfig {
    TrainConfig {
        data: run.folder.path(data(part)),
        out: run.folder.path(format!("experts/{part}")),
        steps: run.pipeline.steps(part),
        seed: run.pipeline.seed,
        precision: run.dtype.name().into(),
        ..run.pipeline.experts.clone()
    }
}

/// What it learns from.
fn data(part: &str) -> PathBuf {
    match part.strip_suffix(SELECTED) {
        _ if part == ALL_IN_ONE => "experts/all-in-one/data".into(),
        Some(skill) => format!("select/{skill}/chosen").into(),
        None => format!("images/{part}").into(),
    }
}

/// The settings that decide the numbers.
///
/// # Errors
/// As [`TrainConfig::to_toml`].
pub(super) fn decides(config: &TrainConfig) -> Result<String> {
    config.deciding().to_toml()
}

/// Trains every task's expert. All are prepared before the base model is loaded for the first, and checkpoints are chosen
/// after the last.
///
/// # Errors
/// Those of [`Preparation::new`] and [`Trainer::run`].
pub(super) fn train(run: &Run, tasks: Vec<Task>, watcher: &mut dyn Watcher) -> Result<()> {
    let chooses = run.pipeline.choose.is_some();
    let (mut prepared, mut trained) = (Vec::new(), Vec::new());
    for task in tasks {
        if chooses {
            if choose::is_made(run, task.part())? {
                let took = Duration::ZERO;
                trained.push(Trained { task, took });
                continue;
            }
            choose::check_candidates(run, task.part())?;
        }
        if task.part() == ALL_IN_ONE {
            join_data(run)?;
        }
        let (config, vocab) = (config(run, task.part()), run.pipeline.vocab.as_deref());
        // They differ in steps and data alone: one says what memory all will take.
        let preparation = match prepared.is_empty() {
            true => Preparation::new(config, vocab, &run.device, run.dtype, true, watcher)?,
            false => Preparation::another(config, vocab, &run.device, run.dtype, watcher)?,
        };
        prepared.push((task, preparation));
    }
    let mut shared: Option<UNet> = None;
    for (mut task, preparation) in prepared {
        task.begin = Instant::now();
        let unet = match shared.take() {
            Some(unet) => unet,
            None => preparation.load_unet()?,
        };
        let steps = run.pipeline.steps(task.part()) as usize;
        let mut trainer = Trainer::start(preparation, unet)?;
        watcher.note(&format!("{} from step {} of {steps}", task.piece, trainer.step()));
        watcher.prepared("steps", trainer.step() as usize, steps);
        let result = match chooses {
            true => choose::train(run, task.part(), &mut trainer, watcher),
            false => trainer.run(watcher),
        };
        match result {
            Err(Error::Interrupted(_)) => {
                let step = trainer.step();
                let message = format!("stopped after step {step} of {steps}, which is saved; the same command goes on");
                return Err(Error::Interrupted(message));
            }
            other => other?,
        }
        shared = Some(trainer.into_unet());
        if chooses {
            let took = task.begin.elapsed();
            trained.push(Trained { task, took });
        } else {
            run.finish(task)?;
        }
    }
    // The network that was trained makes room for the one that draws.
    drop(shared);
    match trained.is_empty() {
        true => Ok(()),
        false => choose::choose(run, trained, watcher),
    }
}

/// The data of all skills as one training folder, of hard links where the file system has them.
fn join_data(run: &Run) -> Result<()> {
    let dir = run.folder.path(data(ALL_IN_ONE));
    std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
    let mut rows = Vec::new();
    for skill in &run.pipeline.skills {
        let from = run.folder.path(format!("images/{}", skill.id));
        for (_, mut row) in jsonl::read::<Value>(&from.join("metadata.jsonl"))? {
            let file = row["file_name"].as_str().unwrap_or_default().to_owned();
            let name = format!("{}-{file}", skill.id);
            let (source, target) = (from.join(&file), dir.join(&name));
            if !target.exists() && std::fs::hard_link(&source, &target).is_err() {
                atomic::write_bytes(&target, &std::fs::read(&source).map_err(|e| Error::io(&source, e))?)?;
            }
            row["file_name"] = name.into();
            rows.push(row);
        }
    }
    jsonl::write(&dir.join("metadata.jsonl"), &rows)
}
