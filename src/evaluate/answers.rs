//! Answers that were given elsewhere: a table or JSON lines of item, question and answer.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::questions::Item;
use crate::error::{Error, Result};
use crate::formats::{jsonl, table};

/// The answers of a file, by item, image (none where the file does not say) and question.
pub struct Answers {
    path: PathBuf,
    by_question: HashMap<(String, Option<String>, usize), String>,
    /// Those that are answered about.
    items: HashSet<String>,
}

impl Answers {
    /// Reads `.csv` (with a header), `.jsonl`, or `.json`: a list, or the result file of TIFA's own scorer. A record has
    /// `item_id` (or `id`), `question_id` (or `proposition_id`) or the question's text as `question`, `answer` (or
    /// `free_form_vqa`), and `file_name` where an item has several images.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] naming the record: an item or question that `items` have not, two answers to one
    /// question about one image, no answer.
    pub fn read(path: &Path, items: &[Item]) -> Result<Self> {
        let by_id: HashMap<&str, &Item> = items.iter().map(|item| (item.id.as_str(), item)).collect();
        let mut by_question = HashMap::new();
        for (place, record) in records(path)? {
            let refuse = |why: String| Error::file(path, format!("{place}: {why}"));
            let field = |names: &[&str]| names.iter().find_map(|name| text(record.get(*name)?));
            let id = field(&["item_id", "id"]).ok_or_else(|| refuse("no item_id".into()))?;
            let item = by_id.get(id.as_str()).ok_or_else(|| refuse(format!("item {id} is not among the questions")))?;
            let answer = field(&["answer", "free_form_vqa"]).ok_or_else(|| refuse("no answer".into()))?;
            let asked: Vec<usize> = match field(&["question_id", "proposition_id"]) {
                Some(number) => {
                    let known = item.questions.iter().filter(|q| q.id.to_string() == number.trim());
                    known.map(|question| question.id).collect()
                }
                None => {
                    let question = field(&["question", "question_natural_language"])
                        .ok_or_else(|| refuse("neither question_id nor question".into()))?;
                    let same = item.questions.iter().filter(|q| q.text.trim() == question.trim());
                    same.map(|question| question.id).collect()
                }
            };
            if asked.is_empty() {
                return Err(refuse(format!("item {id} has no such question")));
            }
            let file_name = field(&["file_name"]).filter(|name| !name.is_empty());
            for question in asked {
                let key = (id.clone(), file_name.clone(), question);
                let earlier = by_question.insert(key, answer.clone());
                if earlier.is_some_and(|earlier| earlier != answer) {
                    return Err(refuse(format!("another answer to question {question} of item {id}")));
                }
            }
        }
        Ok(Self { path: path.into(), items: by_question.keys().map(|(id, ..)| id.clone()).collect(), by_question })
    }

    /// None, as long as there is no file.
    pub fn none(path: &Path) -> Self {
        Self { path: path.into(), by_question: HashMap::new(), items: HashSet::new() }
    }

    /// The answers to all questions about one image; an empty one is none.
    ///
    /// # Errors
    /// [`Error::File`] naming the first question that the file does not have.
    pub fn of(&self, item: &Item, file_name: &str) -> Result<Vec<Option<String>>> {
        let one = |question: usize| {
            self.get(item, file_name, question).map(|answer| Some(answer.to_owned())).ok_or_else(|| {
                let message = format!("no answer to question {question} of item {} about {file_name}", item.id);
                Error::file(&self.path, message)
            })
        };
        item.questions.iter().map(|question| one(question.id)).collect()
    }

    /// Whether there is any answer about an item.
    pub fn knows(&self, item: &str) -> bool {
        self.items.contains(item)
    }

    /// The answer to one question about one image.
    pub fn get(&self, item: &Item, file_name: &str, question: usize) -> Option<&str> {
        let own = (item.id.clone(), Some(file_name.to_owned()), question);
        let shared = (item.id.clone(), None, question);
        let answer = self.by_question.get(&own).or_else(|| self.by_question.get(&shared));
        answer.map(String::as_str)
    }

    /// Where they were read from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A string, or a number as one.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Records, each with its place in the file.
fn records(path: &Path) -> Result<Vec<(String, Map<String, Value>)>> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("jsonl" | "ndjson") => {
            let lines = jsonl::read::<Map<String, Value>>(path)?;
            Ok(lines.into_iter().map(|(line, record)| (format!("line {line}"), record)).collect())
        }
        Some("json") => json(path),
        _ => rows(path),
    }
}

fn rows(path: &Path) -> Result<Vec<(String, Map<String, Value>)>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut reader = csv::Reader::from_reader(bytes);
    let refuse = |e: csv::Error| Error::file(path, e.to_string());
    let header = reader.headers().map_err(refuse)?.clone();
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(refuse)?;
        let line = table::line(bytes, &row);
        let fields = header.iter().zip(row.iter());
        let record = fields.map(|(name, value)| (name.trim().into(), value.into())).collect();
        records.push((format!("line {line}"), record));
    }
    Ok(records)
}

fn json(path: &Path) -> Result<Vec<(String, Map<String, Value>)>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))?;
    let list = match value {
        Value::Array(list) => list,
        // TIFA's scorer: captions, of them questions, of them records.
        Value::Object(mut result) => match result.shift_remove("question_details") {
            Some(Value::Object(captions)) => {
                let captions = captions.into_iter().map(|(_, questions)| questions);
                let questions = captions.filter_map(|questions| match questions {
                    Value::Object(questions) => Some(questions.into_iter().map(|(_, record)| record)),
                    _ => None,
                });
                // The right answer is called `answer` there, the given one `free_form_vqa`.
                let mut list: Vec<Value> = questions.flatten().collect();
                let records = list.iter_mut().filter_map(Value::as_object_mut);
                records.for_each(|record| drop(record.shift_remove("answer")));
                list
            }
            _ => {
                return Err(Error::file(path, "expected a list of answers, or a result file of TIFA's scorer"));
            }
        },
        _ => return Err(Error::file(path, "expected a list of answers")),
    };
    let record = |(i, value)| match value {
        Value::Object(record) => Ok((format!("entry {}", i + 1), record)),
        other => Err(Error::file(path, format!("entry {}: expected an object, got {other}", i + 1))),
    };
    list.into_iter().enumerate().map(record).collect()
}
