//! Results that are there already.

use std::path::Path;

use super::refuse_existing;
use crate::error::Result;

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
