//! JSON lines: one record a line, errors with line numbers.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::formats::json;

/// Reads every record of a file, each with its line number (from 1). Empty lines are skipped, a byte-order mark is
/// allowed.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] with the line number and the reason if a line is not UTF-8, not JSON, or not a `T`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut records = Vec::new();
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let number = i + 1;
        let line = std::str::from_utf8(line)
            .map_err(|_| Error::file(path, format!("line {number} is not UTF-8; convert the file to UTF-8")))?
            .trim();
        if line.is_empty() {
            continue;
        }
        let record =
            json::parse(line.as_bytes()).map_err(|e| Error::file(path, format!("line {number}: {}", reason(&e))))?;
        records.push((number, record));
    }
    Ok(records)
}

/// Writes one record a line, the file whole.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, records: &[serde_json::Value]) -> Result<()> {
    super::atomic::write(path, |w| records.iter().try_for_each(|record| writeln!(w, "{record}")))
}

/// What the JSON reader says, with the column but without its own line number, which counts within the line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line 1 column ") {
        Some(at) => format!("{} (column {})", &text[..at], error.column()),
        None => text,
    }
}
