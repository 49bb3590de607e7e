//! The whole method in one folder: prompts, pictures, experts, their merge, an evaluation, a report.
//!
//! ```text
//! prompts/SKILL.json   questions/SKILL.csv   images/SKILL/   select/SKILL/   experts/SKILL/lora.safetensors
//! experts/all-in-one/   merge/lora.safetensors   evaluate/ARM/SKILL/seed-N/   evaluate/ARM/scores.json
//! judge/evaluate.answers.jsonl   report.html   stages/PIECE/
//! ```
//!
//! [`Run::go`] brings every [`Piece`] up to date: one that is complete is skipped, one that was begun goes on
//! ([`folder`]). Pieces of a stage are independent of each other, so that processes can share them.

mod budget;
mod check;
mod choose;
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
pub mod pipeline;
mod plan;
mod prompts;
mod questions;
pub mod report;
mod select;
pub mod settings;
pub mod stage;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use estimate::Estimate;
pub use evaluate::Summary;
pub use folder::RunFolder;
pub use pipeline::Pipeline;
pub use stage::{Piece, Stage};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::model_dir::ModelDir;
use crate::generate::parameters;
use crate::prompting::llm::Budget;
use crate::tensor::DType;
use crate::train::watcher::Watcher;
use folder::Hold;
use plan::Plan;

/// A pipeline and the folder that it runs in.
pub struct Run<'a> {
    pub pipeline: &'a Pipeline,
    pub folder: RunFolder,
    /// What the networks compute on, and in which type.
    pub device: Device,
    pub dtype: DType,
    /// The command, for the report.
    pub command: &'a str,
    /// The hash of what each finished piece made.
    made: RefCell<BTreeMap<Piece, String>>,
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

/// Where a piece stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Done,
    Begun,
    /// It was made from something else, and will be made anew.
    Outdated,
    ToDo,
}

/// A piece with the lock on it and on what it reads, while it is worked on.
struct Task {
    piece: Piece,
    plan: Plan,
    begin: Instant,
    _holds: Vec<Hold>,
}

impl<'a> Run<'a> {
    pub fn new(pipeline: &'a Pipeline, out: &Path, device: Device, dtype: DType, command: &'a str) -> Self {
        Self {
            pipeline,
            folder: RunFolder::new(out),
            device,
            dtype,
            command,
            made: RefCell::default(),
            models: RefCell::default(),
            budgets: Default::default(),
        }
    }

    /// The scores, where the evaluation is complete.
    pub fn summary(&self) -> Option<Summary> {
        Summary::read(&self.folder.path("evaluate/summary.json")).ok()
    }

    /// All that belongs to this pipeline, in an order in which it can be done.
    pub fn pieces(&self) -> Vec<Piece> {
        Stage::ALL.into_iter().flat_map(|stage| self.pieces_of(stage)).collect()
    }

    /// Brings what is selected up to date. Returns the pieces that were worked on.
    ///
    /// # Errors
    /// [`Error::Usage`] for a selection that is not part of this pipeline; [`Error::Failed`] where what a selected piece is
    /// made from is not there; whatever keeps a piece from being done.
    pub fn go(&self, selection: &Selection, watcher: &mut dyn Watcher) -> Result<Vec<Piece>> {
        let wanted = self.selected(selection)?;
        self.check()?;
        let mut worked_on = Vec::new();
        for pieces in wanted.chunk_by(|a, b| a.stage == b.stage) {
            let mut tasks = Vec::new();
            for piece in pieces {
                if self.standing(piece)? != Standing::Done {
                    tasks.extend(self.take_up(piece, watcher)?);
                }
            }
            worked_on.extend(tasks.iter().map(|task| task.piece.clone()));
            if !tasks.is_empty() {
                self.work(pieces[0].stage, tasks, watcher)?;
            }
        }
        Ok(worked_on)
    }

    /// Finds out before anything is paid for or drawn whether models and questions are there.
    ///
    /// # Errors
    /// As [`ModelDir::open`]; those of the question file; [`Error::Failed`] where there are too few held-out prompts.
    fn check(&self) -> Result<()> {
        for model in [&self.pipeline.images.model, &self.pipeline.experts.model] {
            ModelDir::open(Path::new(model))?;
        }
        held_out::check(self)
    }

    fn selected(&self, selection: &Selection) -> Result<Vec<Piece>> {
        let mut wanted = self.pieces();
        if let Some(stage) = selection.stage {
            wanted.retain(|piece| piece.stage == stage);
            if wanted.is_empty() {
                let message = format!("--only {}: this pipeline does not have that stage", stage.name());
                return Err(Error::Usage(message));
            }
        }
        if let Some(skill) = &selection.skill {
            wanted.retain(|piece| piece.part.as_deref() == Some(skill));
            if wanted.is_empty() {
                let parts = self.pipeline.trained().join(", ");
                return Err(Error::Usage(format!("--skill {skill}: expected one of {parts}")));
            }
        }
        Ok(wanted)
    }

    /// Where `piece` stands. What it is made from must be there.
    ///
    /// # Errors
    /// [`Error::Failed`] where that is not so; [`Error::Io`].
    pub fn standing(&self, piece: &Piece) -> Result<Standing> {
        if self.made.borrow().contains_key(piece) {
            return Ok(Standing::Done);
        }
        let plan = self.plan(piece)?;
        if let Some(hash) = self.folder.complete(piece, &plan.inputs, &plan.paths)? {
            self.made.borrow_mut().insert(piece.clone(), hash);
            return Ok(Standing::Done);
        }
        Ok(match self.folder.record(piece) {
            None => Standing::ToDo,
            Some(record) if plan.paths.goes_on(&record, &plan.inputs) => Standing::Begun,
            Some(_) => Standing::Outdated,
        })
    }

    /// The hash of what `piece` made.
    fn made(&self, piece: &Piece) -> Result<String> {
        if self.standing(piece)? != Standing::Done {
            return Err(Error::Failed(format!(
                "the {piece} of this run are not complete, and are needed here; run the same command with {} first, or \
                 without --only",
                piece.arguments()
            )));
        }
        Ok(self.made.borrow()[piece].clone())
    }

    /// Locks a piece and begins it; none where another process has finished it meanwhile.
    fn take_up(&self, piece: &Piece, watcher: &mut dyn Watcher) -> Result<Option<Task>> {
        let mut holds = vec![self.folder.hold(piece)?];
        for needed in self.needs(piece) {
            holds.push(self.folder.share(&needed)?);
        }
        let standing = self.standing(piece)?;
        if standing == Standing::Done {
            return Ok(None);
        }
        let plan = self.plan(piece)?;
        self.folder.begin(piece, &plan.inputs, &plan.paths)?;
        watcher.note(&match standing {
            Standing::Outdated => format!("{piece}: anew, because what they are made from has changed"),
            Standing::Begun => format!("{piece}: going on"),
            _ => piece.to_string(),
        });
        Ok(Some(Task { piece: piece.clone(), plan, begin: Instant::now(), _holds: holds }))
    }

    fn work(&self, stage: Stage, tasks: Vec<Task>, watcher: &mut dyn Watcher) -> Result<()> {
        match stage {
            Stage::Prompts => tasks.into_iter().try_for_each(|task| {
                prompts::write(self, task.part(), watcher)?;
                self.finish(task)
            }),
            Stage::Questions => tasks.into_iter().try_for_each(|task| {
                questions::write(self, task.part(), watcher)?;
                self.finish(task)
            }),
            Stage::Images => images::generate(self, tasks, watcher),
            Stage::Select => select::select(self, tasks, watcher),
            Stage::Experts => experts::train(self, tasks, watcher),
            Stage::Merge => tasks.into_iter().try_for_each(|task| {
                merge::merge_experts(self, task.part(), watcher)?;
                self.finish(task)
            }),
            Stage::Evaluate => tasks.into_iter().try_for_each(|task| {
                evaluate::evaluate(self, watcher)?;
                self.finish(task)
            }),
            Stage::Report => tasks.into_iter().try_for_each(|task| {
                report::write(self)?;
                self.finish(task)
            }),
        }
    }

    fn finish(&self, task: Task) -> Result<()> {
        let seconds = task.begin.elapsed().as_secs_f64();
        let hash = self.folder.finish(&task.piece, &task.plan.inputs, &task.plan.paths, seconds)?;
        self.made.borrow_mut().insert(task.piece, hash);
        Ok(())
    }

    /// The hash of a model's files.
    fn model(&self, model: &str, vae: Option<&Path>) -> Result<String> {
        let key = (PathBuf::from(model), vae.map(Path::to_path_buf));
        if let Some(hash) = self.models.borrow().get(&key) {
            return Ok(hash.clone());
        }
        let files = parameters::model_files(&key.0, vae, self.pipeline.vocab.as_deref())?;
        let hash = parameters::inputs_hash(files).join().expect("hashing does not panic")?;
        self.models.borrow_mut().insert(key, hash.clone());
        Ok(hash)
    }
}

impl Task {
    /// The skill; empty where the piece is whole.
    fn part(&self) -> &str {
        self.piece.part.as_deref().unwrap_or_default()
    }
}
