//! The questions of DSG (Cho et al., arXiv:2310.18235), in the form of its `dsg-1k-anns.csv`.

use std::collections::HashMap;
use std::path::Path;

use super::{Item, Question};
use crate::error::{Error, Result};

/// The columns that are read. `keywords` and `tuple`, which the file has too, are not.
const COLUMNS: [&str; 7] = [
    "item_id",
    "text",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "question_natural_language",
];

/// DSG's prompt families, by what the ids of their items begin with.
const FAMILIES: [(&str, &str); 10] = [
    ("tifa160", "tifa"),
    ("localized_narratives", "paragraph"),
    ("stanford_paragraph", "paragraph"),
    ("vrd", "relation"),
    ("countbench", "count"),
    ("diffusiondb", "real_user"),
    ("midjourney", "real_user"),
    ("posescript", "pose"),
    ("whoops", "defying"),
    ("drawtext", "text"),
];

/// Reads a question file, items in the order of their first rows.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the line: not CSV in UTF-8, a column missing, a number that is none, a question
/// twice, an item with two prompts.
pub fn read(path: &Path) -> Result<Vec<Item>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut reader = csv::Reader::from_reader(bytes);
    let header = reader
        .headers()
        .map_err(|e| Error::file(path, format!("line 1: {e}")))?;
    let mut places = [0; COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        *place = header.iter().position(|name| name.trim() == column).ok_or_else(|| {
            let message = format!(
                "line 1: no column {column}; expected DSG's columns {}",
                COLUMNS.join(", ")
            );
            Error::file(path, message)
        })?;
    }
    let mut items: Vec<Item> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for row in reader.records() {
        let row = row.map_err(|e| Error::file(path, e.to_string()))?;
        let line = row.position().map_or(0, csv::Position::line);
        let refuse = |why: String| Error::file(path, format!("line {line}: {why}"));
        let [id, text, number, dependency, broad, detailed, question] =
            places.map(|place| row.get(place).unwrap_or_default().trim());
        let number = number
            .parse::<usize>()
            .map_err(|_| refuse(format!("proposition_id {number:?}: expected a number")))?;
        let at = *known.entry(id.into()).or_insert_with(|| {
            items.push(Item {
                id: id.into(),
                prompt: text.into(),
                family: family(id),
                questions: Vec::new(),
            });
            items.len() - 1
        });
        let item = &mut items[at];
        if item.prompt != text {
            return Err(refuse(format!("item {id} has another text here than above")));
        }
        if item.questions.iter().any(|other| other.id == number) {
            return Err(refuse(format!("item {id} has its question {number} twice")));
        }
        item.questions.push(Question {
            id: number,
            parents: parents(dependency, number),
            category: match detailed {
                "-" | "" => broad.into(),
                detailed => format!("{broad} - {detailed}"),
            },
            text: question.into(),
            choices: Vec::new(),
            answer: String::new(),
        });
    }
    match items.is_empty() {
        true => Err(Error::file(path, "holds no questions")),
        false => Ok(items),
    }
}

/// The ids in a list such as `1, 3`: words (`5, right`), 0 (`0,4`) and the question itself are left out.
fn parents(list: &str, own: usize) -> Vec<usize> {
    let ids = list.split(',').filter_map(|id| id.trim().parse().ok());
    let mut parents: Vec<usize> = ids.filter(|&id| id != 0 && id != own).collect();
    parents.sort_unstable();
    parents.dedup();
    parents
}

/// DSG's name of the family that an item id such as `whoops_5` belongs to; of other ids, what is before the number.
fn family(id: &str) -> Option<String> {
    let (source, number) = id.rsplit_once('_')?;
    number.parse::<u64>().ok()?;
    let known = FAMILIES.iter().find(|(name, _)| *name == source);
    Some(known.map_or(source, |(_, family)| family).into())
}
