//! The questions of DSG (Cho et al., arXiv:2310.18235), in the form of its `dsg-1k-anns.csv`.

use std::collections::HashMap;
use std::path::Path;

use super::{Item, Question};
use crate::error::{Error, Result};
use crate::formats::{atomic, table};

/// The columns of the file.
const ALL_COLUMNS: [&str; 9] = [
    "item_id",
    "text",
    "keywords",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "tuple",
    "question_natural_language",
];
/// Those that are read: `keywords` and `tuple` are not.
const COLUMNS: [&str; 7] = [
    "item_id",
    "text",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "question_natural_language",
];

/// A prompt with its propositions, as the file has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotated {
    pub id: String,
    pub prompt: String,
    pub propositions: Vec<Proposition>,
}

/// One thing that an image must show, and the question that finds out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposition {
    /// Of its item.
    pub id: usize,
    /// Propositions of the item that this one builds upon.
    pub parents: Vec<usize>,
    /// Category and arguments, such as `attribute - color (bus, red)`.
    pub tuple: String,
    pub question: String,
}

impl Proposition {
    /// Broad and detailed category, and the arguments. A text that is no tuple is an argument of the category `other`.
    fn parts(&self) -> (String, String, &str) {
        let tuple = self.tuple.trim();
        let Some((category, arguments)) = tuple.split_once('(').filter(|(category, _)| !category.trim().is_empty())
        else {
            return ("other".into(), "-".into(), tuple);
        };
        let (broad, detailed) = category.split_once('-').unwrap_or((category, "-"));
        let named = |name: &str| Some(name.trim().to_lowercase()).filter(|name| !name.is_empty()).unwrap_or("-".into());
        (named(broad), named(detailed), arguments.strip_suffix(')').unwrap_or(arguments))
    }
}

/// Writes a question file.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, items: &[Annotated]) -> Result<()> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let refuse = |e: csv::Error| Error::file(path, e.to_string());
    writer.write_record(ALL_COLUMNS).map_err(refuse)?;
    for item in items {
        for proposition in &item.propositions {
            let (broad, detailed, arguments) = proposition.parts();
            let ids: Vec<String> = proposition.parents.iter().map(ToString::to_string).collect();
            let dependency = if ids.is_empty() { "0".into() } else { ids.join(",") };
            let number = proposition.id.to_string();
            let row: [&str; 9] = [
                &item.id,
                &item.prompt,
                arguments,
                &number,
                &dependency,
                &broad,
                &detailed,
                &proposition.tuple,
                &proposition.question,
            ];
            writer.write_record(row).map_err(refuse)?;
        }
    }
    let bytes = writer.into_inner().map_err(|e| Error::file(path, e.to_string()))?;
    atomic::write_bytes(path, &bytes)
}

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
    let header = reader.headers().map_err(|e| Error::file(path, format!("line 1: {e}")))?;
    let mut places = [0; COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        *place = header.iter().position(|name| name.trim() == column).ok_or_else(|| {
            let message = format!("line 1: no column {column}; expected DSG's columns {}", COLUMNS.join(", "));
            Error::file(path, message)
        })?;
    }
    let mut items: Vec<Item> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for row in reader.records() {
        let row = row.map_err(|e| Error::file(path, e.to_string()))?;
        let line = table::line(bytes, &row);
        let refuse = |why: String| Error::file(path, format!("line {line}: {why}"));
        let [id, text, number, dependency, broad, detailed, question] =
            places.map(|place| row.get(place).unwrap_or_default().trim());
        let number =
            number.parse::<usize>().map_err(|_| refuse(format!("proposition_id {number:?}: expected a number")))?;
        let at = *known.entry(id.into()).or_insert_with(|| {
            items.push(Item { id: id.into(), prompt: text.into(), family: family(id), questions: Vec::new() });
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
