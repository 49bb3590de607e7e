//! Stage `experts`: a LoRA for each skill, and one for all skills together. The base model is loaded once.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::best_checkpoint::{self, Trained};
use super::config::{ALL_IN_ONE, is_all_in_one};
use super::estimate::{Costs, Effort};
use super::folder::{Inputs, Paths};
use super::held_out::{self, Purpose};
use super::plan::{SELECTED, put};
use super::question_set::QuestionSet;
use super::stage::{Stage, Task, Work};
use super::{ActiveTask, Run};
use crate::data::image_latents;
use crate::error::{Error, Result};
use crate::formats::{atomic, jsonl};
use crate::nn::UNet;
use crate::train::config::TrainConfig;
use crate::train::preparation::Preparation;
use crate::train::trainer::Trainer;
use crate::train::watcher::Watcher;

pub(super) struct Experts;

impl Work for Experts {
    fn tasks(&self, run: &Run) -> Vec<Task> {
        let parts = run.config.trained();
        parts.iter().map(|part| Task::new(Stage::Experts, part)).collect()
    }

    fn needs(&self, run: &Run, task: &Task) -> Vec<Task> {
        let part = task.part();
        let mut needed = match part.strip_suffix(SELECTED) {
            _ if part == ALL_IN_ONE => run.task_a_skill(Stage::Images),
            Some(ALL_IN_ONE) => run.task_a_skill(Stage::Select),
            Some(skill) => vec![Task::new(Stage::Select, skill)],
            None => vec![Task::new(Stage::Images, part)],
        };
        if run.config.choose.is_some() {
            needed.extend(run.questions_for(part));
        }
        needed
    }

    fn question_set(&self) -> Option<QuestionSet> {
        Some(QuestionSet::HeldOut(Purpose::Choice))
    }

    fn inputs(&self, run: &Run, task: &Task, inputs: &mut Inputs) -> Result<Paths> {
        let (part, c) = (task.part(), run.config);
        put(inputs, "model", run.model(&c.experts.model, c.experts.vae.as_deref())?);
        put(inputs, "settings", training_inputs(&config(run, part))?);
        let own = format!("experts/{part}");
        let mut outputs = vec!["lora.safetensors", "metrics.jsonl"];
        if c.choose.is_some() {
            put(inputs, "choose", best_checkpoint::inputs(run)?);
            outputs.push(best_checkpoint::NAME);
        }
        Ok(Paths {
            outputs: outputs.iter().map(|file| format!("{own}/{file}").into()).collect(),
            own: vec![own.into()],
            ..Paths::default()
        })
    }

    fn estimate(&self, run: &Run, task: &Task, costs: &Costs) -> Result<Effort> {
        let (part, c) = (task.part(), run.config);
        let config = config(run, part);
        let samples = config.steps * (config.batch_size * config.grad_accum) as u64;
        let lora = run.lora_bytes()?;
        let states = (config.keep as u64).min(config.steps.div_ceil(config.save_every));
        // Forward, and backward through what is frozen, on one row where a guided step has two.
        let seconds = samples as f64 * 1.5 * costs.of_experts.step;
        let candidates = c.choose.as_ref().map_or(0, |_| best_checkpoint::steps(run, part).len() as u64);
        let sets = held_out::names(run, Purpose::Choice);
        let of_expert = sets.iter().filter(|set| run.learns(part, set)).count();
        let images = candidates * (of_expert * held_out::count(run, Purpose::Choice, "")?) as u64;
        let settings = &c.evaluate.draw;
        let size = run.image_bytes(&c.experts.model, settings)?;
        Ok(Effort {
            work: format!("{} steps, {samples} samples", config.steps),
            bytes: lora * (1 + 3 * states + candidates) + images * size,
            seconds: seconds + images as f64 * costs.of_experts.image(settings),
        })
    }

    fn work(&self, run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()> {
        train(run, tasks, watcher)
    }
}

/// The settings of one expert.
fn config(run: &Run, part: &str) -> TrainConfig {
    TrainConfig {
        data: run.folder.path(data(part)),
        out: run.folder.path(format!("experts/{part}")),
        steps: run.config.steps(part),
        seed: run.config.seed,
        precision: run.dtype.name().into(),
        // A task leaves one LoRA, which the next stages read.
        keep_loras: Some(0),
        ..run.config.experts.clone()
    }
}

/// What it learns from.
fn data(part: &str) -> PathBuf {
    match part.strip_suffix(SELECTED) {
        _ if is_all_in_one(part) => format!("experts/{part}/data").into(),
        Some(skill) => format!("select/{skill}/chosen").into(),
        None => format!("images/{part}").into(),
    }
}

/// The settings that decide the numbers, as an input.
fn training_inputs(config: &TrainConfig) -> Result<String> {
    config.deciding().to_toml()
}

/// Trains every task's expert. All are prepared before the base model is loaded for the first, and checkpoints are chosen
/// after the last.
///
/// # Errors
/// Those of [`Preparation::new`] and [`Trainer::run`].
fn train(run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()> {
    let chooses = run.config.choose.is_some();
    let (mut prepared, mut trained) = (Vec::new(), Vec::new());
    for task in tasks {
        if chooses {
            if best_checkpoint::is_made(run, task.part())? {
                let took = Duration::ZERO;
                trained.push(Trained { task, took });
                continue;
            }
            best_checkpoint::check_candidates(run, task.part())?;
        }
        if is_all_in_one(task.part()) {
            join_data(run, task.part())?;
        }
        let (config, vocab) = (config(run, task.part()), run.config.vocab.as_deref());
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
        let steps = run.config.steps(task.part()) as usize;
        let mut trainer = Trainer::start(preparation, unet)?;
        watcher.note(&format!("{} from step {} of {steps}", task.task, trainer.step()));
        watcher.prepared("steps", trainer.step() as usize, steps);
        let result = match chooses {
            true => best_checkpoint::train(run, task.part(), &mut trainer, watcher),
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
        false => best_checkpoint::choose(run, trained, watcher),
    }
}

/// A second name for a file, or a copy where the file system has no hard links.
fn link(source: &Path, target: &Path) -> Result<()> {
    if target.exists() || std::fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    atomic::write_bytes(target, &std::fs::read(source).map_err(|e| Error::io(source, e))?)
}

/// The data of all skills as one training folder, of hard links where the file system has them.
fn join_data(run: &Run, part: &str) -> Result<()> {
    let dir = run.folder.path(data(part));
    let ending = if part.ends_with(SELECTED) { SELECTED } else { "" };
    std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
    let mut rows = Vec::new();
    for skill in &run.config.skills {
        let from = run.folder.path(data(&format!("{}{ending}", skill.id)));
        for (_, mut row) in jsonl::read::<Value>(&from.join("metadata.jsonl"))? {
            let file = row["file_name"].as_str().unwrap_or_default().to_owned();
            let name = format!("{}-{file}", skill.id);
            let (source, target) = (from.join(&file), dir.join(&name));
            link(&source, &target)?;
            if image_latents::path(&source).exists() {
                link(&image_latents::path(&source), &image_latents::path(&target))?;
            }
            row["file_name"] = name.into();
            rows.push(row);
        }
    }
    jsonl::write(&dir.join("metadata.jsonl"), &rows)
}
