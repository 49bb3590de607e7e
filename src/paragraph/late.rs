//! The late-token score: questions about words within the 75 tokens that survive cutting, and beyond them, for images of
//! prompts that were cut and of prompts that were read whole. The rule is selma's own.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::evaluate::scores::Scores;

/// Where the words of a question first stand in the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// All within the tokens that survive cutting.
    Early,
    /// Some beyond.
    Late,
    /// Nowhere.
    Absent,
}

impl Place {
    pub const ALL: [Place; 3] = [Place::Early, Place::Late, Place::Absent];

    pub fn name(self) -> &'static str {
        match self {
            Place::Early => "early",
            Place::Late => "late",
            Place::Absent => "absent",
        }
    }
}

/// Words of tuples that say nothing about where a thing stands in a text.
const FUNCTION_WORDS: [&str; 22] = [
    "a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "is", "are", "with", "by", "for", "from", "there",
    "this", "that", "it", "its", "as",
];

/// Mean of the answers that count, and how many there are; none without questions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cell {
    pub mean: Option<f64>,
    pub n: usize,
}

/// The main words of a question file: by item and by question.
pub type MainWords = BTreeMap<(String, usize), Vec<String>>;

/// A question file's items: the id of each prompt, and the main words of every question's tuple.
pub struct Tuples {
    ids: BTreeMap<String, String>,
    words: MainWords,
}

impl Tuples {
    /// Reads the columns item_id, text, proposition_id and tuple of a file in DSG's form.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] naming the column that is missing, or the line that is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let mut reader = csv::Reader::from_reader(bytes);
        let header = reader.headers().map_err(|e| Error::file(path, format!("line 1: {e}")))?.clone();
        let place = |column: &str| {
            let found = header.iter().position(|name| name.trim() == column);
            found.ok_or_else(|| Error::file(path, format!("line 1: no column {column}; expected DSG's columns")))
        };
        let columns = [place("item_id")?, place("text")?, place("proposition_id")?, place("tuple")?];
        let (mut ids, mut words) = (BTreeMap::new(), BTreeMap::new());
        for (number, record) in reader.records().enumerate() {
            let record = record.map_err(|e| Error::file(path, e.to_string()))?;
            let [id, text, question, tuple] = columns.map(|column| record[column].trim().to_owned());
            let question: usize = question.parse().map_err(|_| {
                Error::file(path, format!("row {}: proposition_id is `{question}`; expected a number", number + 1))
            })?;
            ids.insert(text, id.clone());
            words.insert((id, question), main_words(&tuple));
        }
        Ok(Self { ids, words })
    }
}

/// The words of a tuple's arguments without function words: `attribute - color (bus, red)` has bus and red.
fn main_words(tuple: &str) -> Vec<String> {
    let arguments = tuple.split_once('(').map_or(tuple, |(_, arguments)| arguments);
    let words = arguments.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '-'));
    let words = words.map(str::to_lowercase).filter(|word| !word.is_empty());
    words.filter(|word| !FUNCTION_WORDS.contains(&word.as_str())).collect()
}

/// Where `words` first stand in `prompt`. Words that do not occur do not count, unless none does.
///
/// # Errors
/// As [`Tokenizer::tokens`].
pub fn place(tokenizer: &Tokenizer, prompt: &str, words: &[String]) -> Result<Place> {
    let ids = tokenizer.tokens(prompt)?;
    let mut last = None;
    for word in words {
        let own = tokenizer.tokens(word)?;
        if own.is_empty() {
            continue;
        }
        if let Some(first) = ids.windows(own.len()).position(|window| *window == own[..]) {
            last = last.max(Some(first + own.len()));
        }
    }
    Ok(match last {
        None => Place::Absent,
        Some(end) if end <= tokenizer.capacity() => Place::Early,
        Some(_) => Place::Late,
    })
}

/// The mean of counting answers at each place, over all images of `scores`.
///
/// # Errors
/// [`Error::Failed`] for scores without questions, or an image whose prompt has none in `tuples`.
pub fn cells(scores: &Scores, tuples: &Tuples, tokenizer: &Tokenizer) -> Result<BTreeMap<Place, Cell>> {
    let mut sums: BTreeMap<Place, (usize, usize)> = BTreeMap::new();
    let mut known: BTreeMap<(String, usize), Place> = BTreeMap::new();
    for image in &scores.images {
        let item = image.item_id.as_ref().or_else(|| tuples.ids.get(image.prompt.trim()));
        let item = item.ok_or_else(|| {
            let prompt: String = image.prompt.chars().take(60).collect();
            Error::Failed(format!("{}: its prompt has no questions in the file: {prompt}...", image.file_name))
        })?;
        for question in &image.questions {
            let key = (item.clone(), question.id);
            let words = tuples.words.get(&key).ok_or_else(|| {
                Error::Failed(format!(
                    "{}: question {} of item {item} is not in the file",
                    image.file_name, question.id
                ))
            })?;
            let place = match known.get(&key) {
                Some(place) => *place,
                None => *known.entry(key).or_insert(place(tokenizer, &image.prompt, words)?),
            };
            let (counts, n) = sums.entry(place).or_default();
            *counts += usize::from(question.counts);
            *n += 1;
        }
    }
    if sums.is_empty() {
        return Err(Error::Failed("these scores have no questions; give those of dsg, tifa or shapes".into()));
    }
    let cell = |place: Place| {
        let (counts, n) = sums.get(&place).copied().unwrap_or_default();
        (place, Cell { mean: (n > 0).then(|| counts as f64 / n as f64), n })
    };
    Ok(Place::ALL.into_iter().map(cell).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_beyond_the_75th_token_are_late() {
        let tokenizer = Tokenizer::clip().unwrap();
        let filler = "very ".repeat(72);
        let prompt = format!("a red bus, {filler} near a green bicycle");
        let place = |words: &[&str]| {
            place(&tokenizer, &prompt, &words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(place(&["bus", "red"]), Place::Early);
        assert_eq!(place(&["bus", "bicycle"]), Place::Late);
        assert_eq!(place(&["bicycle", "zeppelin"]), Place::Late);
        assert_eq!(place(&["zeppelin"]), Place::Absent);
        assert_eq!(place(&[]), Place::Absent);
        assert_eq!(main_words("relation - spatial (bus, bicycle, on the left of)"), ["bus", "bicycle", "left"]);
    }
}
