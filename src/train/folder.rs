//! The output folder of a run: one process at a time, and no leftovers of a killed one.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::config::TrainConfig;
use super::report;
use crate::device::Device;
use crate::device::gpu::choice::Kept;
use crate::error::{Error, Result};
use crate::formats::atomic;

/// Holds the folder until dropped; the system lets go of it when the process ends, however it ends.
pub struct OutputFolder {
    path: PathBuf,
    _lock: File,
    /// Open for as long as the folder is.
    #[allow(dead_code, reason = "what is chosen is written down until it is dropped")]
    kernels: Option<Kept>,
}

impl OutputFolder {
    /// Creates the folder where needed, locks it, and removes files that a killed run had not finished.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] where another run holds it.
    pub fn open(path: &Path) -> Result<Self> {
        let state = path.join("state");
        atomic::create_folder(path)?;
        atomic::create_folder(&state)?;
        let lock = File::create(state.join(".lock")).map_err(|e| Error::io(path, e))?;
        // A file system without locks is no reason not to train.
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            let message = "another selma train is writing into this folder; wait for it, or choose another --out";
            return Err(Error::file(path, message));
        }
        let mut folders = vec![path.into(), state, path.join("samples")];
        if let Ok(entries) = std::fs::read_dir(path.join("cache")) {
            folders.extend(entries.flatten().map(|entry| entry.path()));
        }
        for folder in folders {
            atomic::remove_leftovers(&folder)?;
        }
        Ok(Self { path: path.into(), _lock: lock, kernels: None })
    }

    /// Writes down which kernels are chosen on `device` from now on, and obeys what is written already; with `anew` nothing is.
    ///
    /// # Errors
    /// Where the run began with another --kernels, or its record is damaged.
    pub fn keep_kernels(&mut self, device: &Device, anew: bool) -> Result<()> {
        if let Device::Gpu(gpu) = device {
            self.kernels = gpu.keep_choices(&self.states().join("kernels.jsonl"), anew)?;
        }
        Ok(())
    }

    /// Where there is no state to go on from: refuses files of somebody's, or of a finished run, that a run would replace.
    ///
    /// # Errors
    /// [`Error::File`] naming the file.
    pub fn check_unused(config: &TrainConfig) -> Result<()> {
        let entries = std::fs::read_dir(config.out.join("state")).into_iter().flatten().flatten();
        if entries.map(|entry| entry.file_name()).any(|name| name != ".lock") {
            return Ok(());
        }
        let refuse = |path: &Path, why: &str| {
            Err(Error::file(path, format!("{why}; move it away, or choose another --out or --output-name")))
        };
        let lora = config.result();
        if lora.exists() {
            return refuse(&lora, "is there already, and no state to go on from");
        }
        let page = config.out.join(report::NAME);
        if page.exists() && !report::is_ours(&page) {
            return refuse(&page, "is not the report of a training run");
        }
        let settings = config.out.join("config.toml");
        match std::fs::read_to_string(&settings) {
            // What selma wrote is written as selma writes it.
            Ok(text)
                if !TrainConfig::from_toml(&text).and_then(|read| read.to_toml()).is_ok_and(|ours| ours == text) =>
            {
                refuse(&settings, "was not written by this version of selma, and would be replaced")
            }
            _ => Ok(()),
        }
    }

    /// A file or folder inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn states(&self) -> PathBuf {
        self.path.join("state")
    }
}
