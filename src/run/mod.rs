//! The whole method in one folder: prompts, images, experts, their merge, an evaluation, a report.
//!
//! ```text
//! prompts/SKILL.json   questions/SKILL.csv   images/SKILL/   select/SKILL/   experts/SKILL/lora.safetensors
//! experts/all-in-one/   merge/lora.safetensors   evaluate/ARM/SKILL/seed-N/   evaluate/ARM/scores.json
//! judge/evaluate.answers.jsonl   report.html   stages/TASK/
//! ```
//!
//! [`Run::go`] brings every [`Task`] up to date: one that is complete is skipped, one that was begun goes on
//! ([`folder`]). Tasks of a stage are independent of each other, so that processes can share them.

pub mod benchmarks;
mod best_checkpoint;
mod budget;
mod check;
pub mod config;
pub mod demo;
mod estimate;
mod evaluate;
mod experts;
pub mod folder;
mod held_out;
mod images;
mod judge;
mod keys;
mod merge;
mod plan;
mod prompts;
mod question_set;
mod questions;
pub mod report;
mod scored;
mod scorers;
mod select;
pub mod settings;
pub mod stage;
mod summary;
pub mod sweep;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;

pub use config::RunConfig;
pub use estimate::Estimate;
pub use folder::RunFolder;
pub use stage::{Stage, Task};
pub use summary::Summary;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::formats::model_dir::ModelDir;
use crate::generate::parameters;
use crate::prompting::llm::Budget;
use crate::tensor::DType;
use crate::train::watcher::Watcher;
use folder::Lock;
use plan::StageInputs;

/// A pipeline and the folder that it runs in.
pub struct Run<'a> {
    pub config: &'a RunConfig,
    pub folder: RunFolder,
    /// What the networks compute on, and in which type.
    pub device: Device,
    pub dtype: DType,
    /// The command, for the report.
    pub command: &'a str,
    /// The hash of what each finished task made.
    output_hashes: RefCell<BTreeMap<Task, String>>,
    /// The hash of each model's files.
    models: RefCell<BTreeMap<(PathBuf, Option<PathBuf>), String>>,
    /// What writer and judge may spend.
    budgets: [OnceCell<Arc<Budget>>; 2],
}

/// What a user wants of a run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub stage: Option<Stage>,
    pub skill: Option<String>,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Done,
    Begun,
    /// It was made from something else, and will be made anew.
    Outdated,
    ToDo,
}

/// A task that is worked on, with the locks on it and on what it reads.
struct ActiveTask {
    task: Task,
    plan: StageInputs,
    begin: Instant,
    _locks: Vec<Lock>,
}

impl<'a> Run<'a> {
    pub fn new(config: &'a RunConfig, out: &Path, device: Device, dtype: DType, command: &'a str) -> Self {
        Self {
            config,
            folder: RunFolder::new(out),
            device,
            dtype,
            command,
            output_hashes: RefCell::default(),
            models: RefCell::default(),
            budgets: Default::default(),
        }
    }

    /// The scores, where the evaluation is complete.
    pub fn summary(&self) -> Option<Summary> {
        Summary::read(&self.folder.path("evaluate/summary.json")).ok()
    }

    /// All that belongs to this pipeline, in an order in which it can be done.
    pub fn tasks(&self) -> Vec<Task> {
        Stage::value_variants().iter().flat_map(|stage| stage.definition().tasks(self)).collect()
    }

    /// Brings what is selected up to date. Returns the tasks that were worked on.
    ///
    /// # Errors
    /// [`Error::Usage`] for a selection that is not part of this pipeline; [`Error::Failed`] where what a selected task is
    /// made from is not there; whatever keeps a task from being done.
    pub fn go(&self, selection: &Selection, watcher: &mut dyn Watcher) -> Result<Vec<Task>> {
        let wanted = self.selected(selection)?;
        self.check()?;
        let _kept = match &self.device {
            // Processes of one run share the record; so do the days that it takes.
            Device::Gpu(gpu) if gpu.has_chooser() => {
                atomic::create_folder(&self.folder.path(""))?;
                gpu.keep_choices(&self.folder.path("kernels.jsonl"), false)?
            }
            _ => None,
        };
        let mut worked_on = Vec::new();
        for of_stage in wanted.chunk_by(|a, b| a.stage == b.stage) {
            let mut tasks = Vec::new();
            for task in of_stage {
                if self.status(task)? != Status::Done {
                    tasks.extend(self.acquire(task, watcher)?);
                }
            }
            worked_on.extend(tasks.iter().map(|active| active.task.clone()));
            if !tasks.is_empty() {
                tasks[0].task.stage.definition().work(self, tasks, watcher)?;
            }
        }
        Ok(worked_on)
    }

    /// Finds out before anything is paid for or drawn whether models and questions are there.
    ///
    /// # Errors
    /// As [`ModelDir::open`]; those of the question file; [`Error::Failed`] where there are too few held-out prompts.
    fn check(&self) -> Result<()> {
        for model in [&self.config.images.model, &self.config.experts.model] {
            ModelDir::open(Path::new(model))?;
        }
        held_out::check(self)
    }

    fn selected(&self, selection: &Selection) -> Result<Vec<Task>> {
        let mut wanted = self.tasks();
        if let Some(stage) = selection.stage {
            wanted.retain(|task| task.stage == stage);
            if wanted.is_empty() {
                let message = format!("--only {}: this pipeline does not have that stage", stage.name());
                return Err(Error::Usage(message));
            }
        }
        if let Some(skill) = &selection.skill {
            wanted.retain(|task| task.part.as_deref() == Some(skill));
            if wanted.is_empty() {
                let parts = self.config.trained().join(", ");
                return Err(Error::Usage(format!("--skill {skill}: expected one of {parts}")));
            }
        }
        Ok(wanted)
    }

    /// How far `task` is. What it is made from must be there.
    ///
    /// # Errors
    /// [`Error::Failed`] where that is not so; [`Error::Io`].
    pub fn status(&self, task: &Task) -> Result<Status> {
        if self.output_hashes.borrow().contains_key(task) {
            return Ok(Status::Done);
        }
        let plan = self.stage_inputs(task)?;
        if let Some(hash) = self.folder.complete(task, &plan.inputs, &plan.paths)? {
            self.output_hashes.borrow_mut().insert(task.clone(), hash);
            return Ok(Status::Done);
        }
        Ok(match self.folder.record(task) {
            None => Status::ToDo,
            Some(record) if plan.paths.can_resume(&record, &plan.inputs) => Status::Begun,
            Some(_) => Status::Outdated,
        })
    }

    /// The hash of what `task` made.
    fn output_hash(&self, task: &Task) -> Result<String> {
        if self.status(task)? != Status::Done {
            return Err(Error::Failed(format!(
                "the {task} of this run are not complete, and are needed here; run the same command with {} first, or \
                 without --only",
                task.arguments()
            )));
        }
        Ok(self.output_hashes.borrow()[task].clone())
    }

    /// Locks a task and begins it; none where another process has finished it meanwhile.
    fn acquire(&self, task: &Task, watcher: &mut dyn Watcher) -> Result<Option<ActiveTask>> {
        let mut locks = vec![self.folder.lock(task)?];
        for needed in task.stage.definition().needs(self, task) {
            locks.push(self.folder.lock_shared(&needed)?);
        }
        let status = self.status(task)?;
        if status == Status::Done {
            return Ok(None);
        }
        let plan = self.stage_inputs(task)?;
        self.folder.begin(task, &plan.inputs, &plan.paths)?;
        watcher.note(&match status {
            Status::Outdated => format!("{task}: anew, because what they are made from has changed"),
            Status::Begun => format!("{task}: going on"),
            _ => task.to_string(),
        });
        Ok(Some(ActiveTask { task: task.clone(), plan, begin: Instant::now(), _locks: locks }))
    }

    fn finish(&self, task: ActiveTask) -> Result<()> {
        let seconds = task.begin.elapsed().as_secs_f64();
        let hash = self.folder.finish(&task.task, &task.plan.inputs, &task.plan.paths, seconds)?;
        self.output_hashes.borrow_mut().insert(task.task, hash);
        Ok(())
    }

    /// The hash of a model's files.
    fn model(&self, model: &str, vae: Option<&Path>) -> Result<String> {
        let key = (PathBuf::from(model), vae.map(Path::to_path_buf));
        if let Some(hash) = self.models.borrow().get(&key) {
            return Ok(hash.clone());
        }
        let files = parameters::model_files(&key.0, vae, self.config.vocab.as_deref())?;
        let hash = parameters::inputs_hash(files).join().expect("hashing does not panic")?;
        self.models.borrow_mut().insert(key, hash.clone());
        Ok(hash)
    }
}

impl ActiveTask {
    /// The skill; empty where the stage is one task.
    fn part(&self) -> &str {
        self.task.part()
    }
}
