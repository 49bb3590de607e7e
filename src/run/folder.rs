//! The folder of a run: what is done is recorded beside it, and the record is written last.
//!
//! `stages/TASK/record.json` holds the hashes of what a task was made from and of what it made. A task is complete
//! when both are still as recorded. A record without results marks a task that was begun: the same task goes on from
//! what is there, one with other inputs starts anew.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::stage::Task;
use crate::error::{Error, Result};
use crate::formats::content_hash;
use crate::formats::{atomic, digest};

/// What a task is made from, by name: hashes of files, and settings as they are.
pub type Inputs = BTreeMap<String, String>;

/// Paths of a task, relative to the folder of the run.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// Files, and folders with all that is in them, that make the task complete.
    pub outputs: Vec<PathBuf>,
    /// What is removed before it is made anew from other inputs.
    pub own: Vec<PathBuf>,
    /// Inputs whose change does not discard existing outputs; the stage updates them instead.
    pub mutable_inputs: Vec<&'static str>,
}

impl Paths {
    /// One file or folder that is all of a task.
    pub fn one(path: &str) -> Self {
        Self { outputs: vec![path.into()], own: vec![path.into()], ..Self::default() }
    }

    /// Whether what `record` tells of is the beginning of a task that is made from `inputs`.
    pub fn can_resume(&self, record: &Record, inputs: &Inputs) -> bool {
        let decides = |(name, _): &(&String, &String)| !self.mutable_inputs.contains(&name.as_str());
        record.inputs.iter().filter(decides).eq(inputs.iter().filter(decides))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub inputs: Inputs,
    /// The hash of every file that was made; none while the work is going on.
    pub outputs: Option<BTreeMap<String, String>>,
    /// What the process that finished it took.
    pub seconds: f64,
}

/// Keeps other processes from a task until it is dropped, or the process ends in any way.
pub struct Lock(#[allow(dead_code, reason = "the lock lives as long as the open file")] File);

pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// Nothing is written until a task begins.
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Where something of the run is.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// For work on `task`: nobody else may work on it, or read what it made, at the same time.
    ///
    /// # Errors
    /// [`Error::File`] where another process does; [`Error::Io`].
    pub fn lock(&self, task: &Task) -> Result<Lock> {
        self.try_lock(task, File::try_lock)
    }

    /// For reading what `task` made: nobody may work on it meanwhile.
    ///
    /// # Errors
    /// As [`RunFolder::lock`].
    pub fn lock_shared(&self, task: &Task) -> Result<Lock> {
        self.try_lock(task, File::try_lock_shared)
    }

    fn try_lock(&self, task: &Task, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Lock> {
        let dir = self.records(task)?;
        let path = dir.join("lock");
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        match lock(&file) {
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "another selma is at work on the {task} of this run, or with what they made; wait for it, or choose \
                     another --out"
                );
                Err(Error::file(&self.root, message))
            }
            // A file system without locks is no reason not to work.
            _ => Ok(Lock(file)),
        }
    }

    fn records(&self, task: &Task) -> Result<PathBuf> {
        let dir = self.root.join("stages").join(task.name());
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        Ok(dir)
    }

    /// What is recorded of `task`; none where it was never begun, or the record is damaged.
    pub fn record(&self, task: &Task) -> Option<Record> {
        let path = self.root.join("stages").join(task.name()).join("record.json");
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// The hash of what `task` made, if it was made from `inputs` and is all there as it was.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be read.
    pub fn complete(&self, task: &Task, inputs: &Inputs, paths: &Paths) -> Result<Option<String>> {
        let Some(record) = self.record(task).filter(|record| record.inputs == *inputs) else {
            return Ok(None);
        };
        let Some(recorded) = record.outputs else {
            return Ok(None);
        };
        let present = self.hashes(&paths.outputs)?;
        Ok((recorded == present).then(|| of_hashes(&present)))
    }

    /// Records that work on `task` begins, and clears away what does not belong to it: files that a killed process had
    /// not finished, and everything that was made from other inputs. Whether what is left is the beginning of this task.
    ///
    /// # Errors
    /// [`Error::File`] where something is in the way that no run has recorded: it is the user's; [`Error::Io`].
    pub fn begin(&self, task: &Task, inputs: &Inputs, paths: &Paths) -> Result<bool> {
        let record = self.record(task);
        let can_resume = record.as_ref().is_some_and(|record| paths.can_resume(record, inputs));
        for own in paths.own.iter().map(|own| self.root.join(own)) {
            match &record {
                Some(_) => {
                    if !can_resume {
                        remove(&own)?;
                    }
                    remove_leftovers(&own)?;
                }
                None if own.exists() => {
                    let message = "is there already, and no run has recorded it; move it away, or choose another --out";
                    return Err(Error::file(own, message));
                }
                None => {}
            }
        }
        atomic::remove_leftovers(&self.records(task)?)?;
        self.write(task, inputs, None, 0.0)?;
        Ok(can_resume)
    }

    /// Records that `task` is complete, and returns the hash of what it made.
    ///
    /// # Errors
    /// [`Error::File`] where an output is missing; [`Error::Io`].
    pub fn finish(&self, task: &Task, inputs: &Inputs, paths: &Paths, seconds: f64) -> Result<String> {
        if let Some(missing) = paths.outputs.iter().find(|path| !self.root.join(path).exists()) {
            return Err(Error::file(self.root.join(missing), "was to be made, and is not there"));
        }
        let hashes = self.hashes(&paths.outputs)?;
        let hash = of_hashes(&hashes);
        self.write(task, inputs, Some(hashes), seconds)?;
        Ok(hash)
    }

    fn write(
        &self,
        task: &Task,
        inputs: &Inputs,
        outputs: Option<BTreeMap<String, String>>,
        seconds: f64,
    ) -> Result<()> {
        let path = self.records(task)?.join("record.json");
        let record = Record { inputs: inputs.clone(), outputs, seconds };
        let text = serde_json::to_vec_pretty(&record).map_err(|e| Error::file(&path, e.to_string()))?;
        atomic::write_bytes(&path, &text)
    }

    /// Of every file in `paths` that is there.
    fn hashes(&self, paths: &[PathBuf]) -> Result<BTreeMap<String, String>> {
        let mut files = Vec::new();
        for path in paths {
            list(&self.root, path, &mut files)?;
        }
        let hash = |file: &PathBuf| {
            let hash = digest::file(&self.root.join(file))?;
            Ok((file.to_string_lossy().into_owned(), hash))
        };
        files.par_iter().map(hash).collect()
    }
}

/// One hash for all.
fn of_hashes(hashes: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = hashes.iter().map(|(file, hash)| format!("{hash} {file}\n")).collect();
    content_hash::of_bytes(lines.concat().as_bytes())
}

fn list(root: &Path, path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(path);
    if !full.is_dir() {
        files.extend(full.is_file().then(|| path.to_path_buf()));
        return Ok(());
    }
    for entry in std::fs::read_dir(&full).map_err(|e| Error::io(&full, e))? {
        let entry = entry.map_err(|e| Error::io(&full, e))?;
        list(root, &path.join(entry.file_name()), files)?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}

fn remove_leftovers(path: &Path) -> Result<()> {
    match path.is_dir() {
        true => atomic::remove_all_leftovers(path),
        false => atomic::remove_leftovers_of(path),
    }
}
