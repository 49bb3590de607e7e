//! Prompt files: one prompt a line, JSON lines, a JSON list, or a table such as DSG's.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::prompt_line;
use crate::error::{Error, Result};
use crate::formats::{jsonl, table};

/// What holds the prompt of a record.
const KEYS: [&str; 3] = ["text", "prompt", "caption"];

/// A prompt, and whatever else its record says (an id, a category).
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub text: String,
    pub rest: Map<String, Value>,
}

impl Prompt {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), rest: Map::new() }
    }

    /// The item of a benchmark that it is: its record's `item_id` or `id`, a text or a number.
    pub fn item_id(&self) -> Option<String> {
        match self.rest.get("item_id").or(self.rest.get("id"))? {
            Value::String(id) => Some(id.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        }
    }

    /// A string, or an object with one of [`KEYS`].
    fn from_value(value: Value) -> Result<Self, String> {
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

/// Reads `.jsonl` (a record a line), `.json` (a list, or an object of named prompts, whose names become `id`), `.csv` or `.tsv` (a row
/// a prompt, as PartiPrompts has them; of DSG's question file an item a prompt, with its `item_id`), or text with one prompt a line,
/// which may end in kohya's options (`--n --d --s --l --w --h`). Empty lines of a text, and those that begin with `#`, are
/// skipped.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the line or entry that is not a prompt, an item with two prompts, or where there is
/// no prompt at all.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let prompts = match ending.as_deref() {
        Some("jsonl" | "ndjson") => json_lines(path)?,
        Some("json") => json(path)?,
        Some("csv") => rows(path, b',')?,
        Some("tsv") => rows(path, b'\t')?,
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

/// The rows of a table whose columns a byte separates.
fn rows(path: &Path, delimiter: u8) -> Result<Vec<Prompt>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let refuse = |why: String| Error::file(path, why);
    let header = reader.headers().map_err(|e| refuse(format!("line 1: {e}")))?.clone();
    let place = |column: &str| header.iter().position(|name| name.trim().eq_ignore_ascii_case(column));
    let text = KEYS.iter().find_map(|key| place(key));
    let text = text.ok_or_else(|| refuse("line 1: no column `text`, which holds the prompt".into()))?;
    // A row a question: an item has several.
    let item = place("item_id").filter(|_| place("proposition_id").is_some());
    let mut items: HashMap<String, String> = HashMap::new();
    let mut prompts = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|e| refuse(e.to_string()))?;
        let mut prompt = Prompt::new(row[text].trim());
        match item {
            Some(item) => {
                let id = row[item].trim().to_owned();
                prompt.rest.insert("item_id".into(), id.clone().into());
                match items.insert(id.clone(), prompt.text.clone()) {
                    None => prompts.push(prompt),
                    Some(earlier) if earlier == prompt.text => {}
                    Some(_) => {
                        let line = table::line(bytes, &row);
                        return Err(refuse(format!("line {line}: item {id} has another text here than above")));
                    }
                }
            }
            None => {
                let fields = header.iter().zip(&row).enumerate().filter(|(place, _)| *place != text);
                let named = fields.map(|(_, (name, value))| (name.trim().to_owned(), Value::from(value)));
                prompt.rest.extend(named);
                prompts.push(prompt);
            }
        }
    }
    Ok(prompts)
}

fn text(path: &Path) -> Result<Vec<Prompt>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Error::file(path, format!("line {line} is not UTF-8; convert the file to UTF-8"))
    })?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).enumerate();
    let prompts = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let parse = |(i, line)| prompt_line::parse(line).map_err(|why| Error::file(path, format!("line {}: {why}", i + 1)));
    prompts.map(parse).collect()
}
