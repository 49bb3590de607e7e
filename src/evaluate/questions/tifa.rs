//! The questions of TIFA (Hu et al., arXiv:2303.11897), in the form of its question files.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::{Item, Question};
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Row {
    id: String,
    caption: String,
    question: String,
    choices: Vec<String>,
    answer: String,
    #[serde(default)]
    element_type: String,
}

/// Reads a JSON list of questions. Captions come in the order of their first questions, which are numbered from 1 each.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where it is not such a list, for a question without choices, for an id with two captions.
pub fn read(path: &Path) -> Result<Vec<Item>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let rows: Vec<Row> = serde_json::from_slice(bytes)
        .map_err(|e| Error::file(path, format!("expected a JSON list of TIFA's questions: {e}")))?;
    let mut items: Vec<Item> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (i, row) in rows.into_iter().enumerate() {
        let refuse = |why: String| Error::file(path, format!("entry {} ({}): {why}", i + 1, row.id));
        if row.choices.is_empty() {
            return Err(refuse("`choices` is empty".into()));
        }
        let at = *known.entry(row.id.clone()).or_insert_with(|| {
            items.push(Item {
                id: row.id.clone(),
                prompt: row.caption.trim().into(),
                family: row.id.rsplit_once('_').map(|(source, _)| source.into()),
                questions: Vec::new(),
            });
            items.len() - 1
        });
        let item = &mut items[at];
        if item.prompt != row.caption.trim() {
            return Err(refuse("has another caption here than above".into()));
        }
        item.questions.push(Question {
            id: item.questions.len() + 1,
            parents: Vec::new(),
            category: match row.element_type.as_str() {
                "" => "other".into(),
                // As TIFA's tables have it.
                "animal" | "human" => "animal/human".into(),
                other => other.into(),
            },
            text: row.question,
            choices: row.choices,
            answer: row.answer,
        });
    }
    match items.is_empty() {
        true => Err(Error::file(path, "holds no questions")),
        false => Ok(items),
    }
}
