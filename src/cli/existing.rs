//! Results that are there already.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::refuse_existing;
use crate::error::{Error, Result};
use crate::formats::{atomic, digest};

/// An option of the commands that write one file.
#[derive(clap::Args)]
pub struct Overwrite {
    /// Replace --out if it is a file that exists
    #[arg(long)]
    overwrite: bool,
}

impl Overwrite {
    /// Finds out, before any work, whether `out` can be written and is not there already.
    ///
    /// # Errors
    /// [`crate::Error::File`] for a file that exists, without --overwrite; as [`crate::formats::atomic::check`].
    pub fn check(&self, out: &Path) -> Result<()> {
        refuse_existing(out, self.overwrite)
    }

    /// As [`Overwrite::check`], of what may become a folder: who makes it refuses one that is there.
    ///
    /// # Errors
    /// [`crate::Error::File`] for a file that exists, without --overwrite.
    pub fn check_unused(&self, out: &Path) -> Result<()> {
        match out.is_file() {
            true => refuse_existing(out, self.overwrite),
            false => Ok(()),
        }
    }
}

/// Makes the folder of work that can go on, with the settings in its file `name`; with `resume`, goes on with a folder that
/// has the same. What a kill left half-written goes away.
///
/// # Errors
/// [`Error::File`] for other settings, in a sentence that lists `inputs` beside them, and without `resume` for a folder that
/// was begun; [`Error::Io`].
pub(super) fn begin(out: &Path, name: &str, settings: &Value, resume: bool, inputs: &str) -> Result<()> {
    let text = format!("{settings:#}\n");
    let file = out.join(name);
    match (std::fs::read_to_string(&file), resume) {
        (Ok(there), true) if there == text => atomic::remove_all_leftovers(out),
        (Ok(_), true) => {
            Err(Error::file(&file, format!("was begun with other settings, or another {inputs}; name another folder")))
        }
        (Ok(_), false) => Err(Error::file(&file, "is there already; add --resume, or name another folder")),
        (Err(_), _) => {
            atomic::create_folder(out)?;
            atomic::write_bytes(&file, text.as_bytes())
        }
    }
}

/// What files say, by their names, to be kept with settings; nothing where there is none.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn hashes<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<Option<Value>> {
    let hash = |file: &Path| Ok((file.display().to_string(), digest::file(file)?));
    let all: BTreeMap<String, String> = files.into_iter().map(hash).collect::<Result<_>>()?;
    Ok((!all.is_empty()).then(|| serde_json::json!(all)))
}
