//! Files that a command reads.

use std::path::Path;

use crate::error::{Error, Result};

/// Finds out, before any work, whether what options name is there.
///
/// # Errors
/// [`Error::File`] naming the path and its option.
pub fn check<'a>(paths: impl IntoIterator<Item = (&'static str, Option<&'a Path>)>) -> Result<()> {
    let named = paths.into_iter().filter_map(|(option, path)| Some((option, path?)));
    match named.into_iter().find(|(_, path)| !path.exists()) {
        Some((option, path)) => Err(Error::file(path, format!("no such file or folder; {option} names it"))),
        None => Ok(()),
    }
}
