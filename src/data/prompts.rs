//! Prompt files: one prompt a line, JSON lines, or a JSON list.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::formats::jsonl;

/// A prompt, and whatever else its record says (an id, a category).
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub text: String,
    pub rest: Map<String, Value>,
}

impl Prompt {
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            rest: Map::new(),
        }
    }

    /// A string, or an object with `text`, `prompt` or `caption`.
    fn from_value(value: Value) -> Result<Self, String> {
        const KEYS: [&str; 3] = ["text", "prompt", "caption"];
        let mut rest = match value {
            Value::String(text) => return Ok(Self::new(text)),
            Value::Object(rest) => rest,
            other => return Err(format!("expected a string or an object, got {other}")),
        };
        let Some(key) = KEYS.iter().find(|key| rest.contains_key(**key)) else {
            return Err("no `text`, which holds the prompt (`prompt` and `caption` are taken too)".into());
        };
        match rest.shift_remove(*key) {
            Some(Value::String(text)) => Ok(Self { text, rest }),
            other => Err(format!("`{key}` is {}; expected a string", other.unwrap_or_default())),
        }
    }
}

/// Reads `.jsonl` (a record a line), `.json` (a list, or an object of named prompts, whose names become `id`), or text with
/// one prompt a line. Empty lines are skipped.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the line or entry that is not a prompt, or where there is none at all.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let prompts = match ending.as_deref() {
        Some("jsonl" | "ndjson") => json_lines(path)?,
        Some("json") => json(path)?,
        _ => text(path)?,
    };
    match prompts.is_empty() {
        false => Ok(prompts),
        true => Err(Error::file(path, "no prompt in it")),
    }
}

fn json_lines(path: &Path) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    for (line, value) in jsonl::read::<Value>(path)? {
        let prompt = Prompt::from_value(value);
        prompts.push(prompt.map_err(|why| Error::file(path, format!("line {line}: {why}")))?);
    }
    Ok(prompts)
}

fn json(path: &Path) -> Result<Vec<Prompt>> {
    let refuse = |why: String| Error::file(path, why);
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let value = serde_json::from_slice(bytes).map_err(|e| refuse(format!("not valid JSON: {e}")))?;
    match value {
        Value::Array(list) => (list.into_iter().enumerate())
            .map(|(i, value)| Prompt::from_value(value).map_err(|why| refuse(format!("entry {}: {why}", i + 1))))
            .collect(),
        Value::Object(named) => (named.into_iter())
            .map(|(id, value)| {
                let prompt = Prompt::from_value(value);
                let mut prompt = prompt.map_err(|why| refuse(format!("entry {id:?}: {why}")))?;
                prompt.rest.insert("id".into(), Value::String(id));
                Ok(prompt)
            })
            .collect(),
        other => Err(refuse(format!("expected a list of prompts, got {other}"))),
    }
}

fn text(path: &Path) -> Result<Vec<Prompt>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Error::file(path, format!("line {line} is not UTF-8; convert the file to UTF-8"))
    })?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    Ok(lines.filter(|line| !line.is_empty()).map(Prompt::new).collect())
}
