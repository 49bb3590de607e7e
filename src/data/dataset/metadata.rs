//! `metadata.jsonl` and `metadata.csv`: records of `file_name` and a caption, as in Hugging Face's imagefolder.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Sample;
use super::names::within;
use crate::error::{Error, Result};
use crate::formats::{jsonl, table};

/// The columns that captions are looked for in, the likeliest first.
const COLUMNS: [&str; 3] = ["text", "caption", "prompt"];
const FILE: &str = "file_name";

type Record = Map<String, Value>;

/// The metadata file of a folder; none where it has none.
///
/// # Errors
/// [`Error::File`] for a folder with two.
pub fn find(dir: &Path) -> Result<Option<PathBuf>> {
    let both = ["metadata.jsonl", "metadata.csv"].map(|name| dir.join(name)).map(|path| path.is_file().then_some(path));
    match both {
        [Some(lines), Some(_)] => Err(Error::file(lines, "stands beside metadata.csv; keep one of them")),
        [lines, table] => Ok(lines.or(table)),
    }
}

/// The samples that a metadata file lists, and what to say of it. `asked` is the column of the captions; where left out,
/// the first of [`COLUMNS`] that is there.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the line that is wrong, or the columns where that of the captions is not there.
pub fn read(path: &Path, asked: Option<&str>, subset: usize) -> Result<(Vec<Sample>, Vec<String>)> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let records = match path.extension().is_some_and(|ending| ending == "csv") {
        true => rows(path)?,
        false => jsonl::read::<Value>(path)?,
    };
    let Some((_, first)) = records.first() else {
        return Ok((Vec::new(), Vec::new()));
    };
    let column = column(first, asked).map_err(|why| Error::file(path, why))?;
    let mut samples = Vec::new();
    for (line, record) in records {
        let refuse = |why: String| Error::file(path, format!("line {line}: {why}"));
        let Value::Object(record) = record else {
            return Err(refuse(format!("expected an object with `{FILE}` and `{column}`, got {record}")));
        };
        let name = match record.get(FILE) {
            Some(Value::String(name)) => name,
            Some(other) => return Err(refuse(format!("`{FILE}` is {other}; expected a text"))),
            None => return Err(refuse(format!("missing field `{FILE}`"))),
        };
        let captions = captions(&record, &column).map_err(refuse)?;
        let image = within(dir, name).map_err(|why| refuse(format!("{FILE} `{name}` {why}")))?;
        let spelled = if name.contains('\\') { "; folders and names are separated by /" } else { "" };
        let image = image.ok_or_else(|| refuse(format!("{FILE} `{name}` does not exist{spelled}")))?;
        samples.push(Sample { image, captions, subset });
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let note = (column != COLUMNS[0]).then(|| format!("captions are the column `{column}` of {file}"));
    Ok((samples, note.into_iter().collect()))
}

fn column(first: &Value, asked: Option<&str>) -> Result<String, String> {
    let there: Vec<&str> = match first {
        Value::Object(record) => record.keys().map(String::as_str).filter(|key| *key != FILE).collect(),
        _ => Vec::new(),
    };
    match asked {
        Some(asked) if there.contains(&asked) => Ok(asked.into()),
        Some(asked) => Err(format!("line 1: no column `{asked}` (--caption-column); there are: {}", there.join(", "))),
        // Where none is there, the first line is refused for its lack of `text`.
        None => Ok(COLUMNS.iter().find(|name| there.contains(*name)).unwrap_or(&COLUMNS[0]).to_string()),
    }
}

/// One caption, or several in a list.
fn captions(record: &Record, column: &str) -> Result<Vec<String>, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.trim().to_owned()),
        other => Err(format!("`{column}` is {other}; expected a text, or a list of texts")),
    };
    match record.get(column) {
        None => Err(format!("missing field `{column}`, which holds the caption; --caption-column names another")),
        Some(Value::Array(list)) if list.is_empty() => Err(format!("`{column}` is an empty list")),
        Some(Value::Array(list)) => list.iter().map(text).collect(),
        Some(value) => Ok(vec![text(value)?]),
    }
}

/// The rows of a table as records, each with its line.
fn rows(path: &Path) -> Result<Vec<(usize, Value)>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut reader = csv::Reader::from_reader(bytes);
    let header = reader.headers().map_err(|e| Error::file(path, format!("line 1: {e}")))?.clone();
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|e| Error::file(path, e.to_string()))?;
        let fields = header.iter().zip(&row).map(|(name, value)| (name.trim().to_owned(), Value::from(value)));
        records.push((table::line(bytes, &row) as usize, Value::Object(fields.collect())));
    }
    Ok(records)
}
