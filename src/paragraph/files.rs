//! ParaDiffusion's test files: `ParaPrompts_400.csv` (`Image,Prompt,Category,Prompt_Chinese`), and `Parts_50/IMAGE.json`,
//! which has what a paragraph says of each object: `{"object": {"Attributes": "..", "Locations": ".."}}`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::evaluate::questions::dsg::{Annotated, Proposition};

const COLUMNS: [&str; 3] = ["Image", "Prompt", "Category"];

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paragraph {
    /// The image's file name.
    pub image: String,
    pub prompt: String,
    pub category: String,
}

/// An object of a paragraph, and what is said of it; either text may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub object: String,
    pub attributes: String,
    pub locations: String,
}

impl Paragraph {
    /// What its parts' file and its item are called: the image's name without ending.
    pub fn stem(&self) -> String {
        Path::new(&self.image).file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// As a prompt of `selma generate`.
    pub fn record(&self) -> Value {
        json!({"text": self.prompt, "item_id": self.stem(), "category": self.category})
    }
}

/// Reads the table.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the column that is missing, or the line that is wrong.
pub fn read(path: &Path) -> Result<Vec<Paragraph>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut reader = csv::Reader::from_reader(bytes);
    let header = reader.headers().map_err(|e| Error::file(path, format!("line 1: {e}")))?.clone();
    let mut places = [0; COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        *place = header
            .iter()
            .position(|name| name.trim() == column)
            .ok_or_else(|| Error::file(path, format!("line 1: no column {column}; expected {}", COLUMNS.join(", "))))?;
    }
    let mut rows: Vec<Paragraph> = Vec::new();
    for (number, record) in reader.records().enumerate() {
        let record = record.map_err(|e| Error::file(path, e.to_string()))?;
        let [image, prompt, category] = places.map(|place| record[place].trim().to_owned());
        if prompt.is_empty() || image.is_empty() {
            return Err(Error::file(path, format!("row {}: Image or Prompt is empty", number + 1)));
        }
        let row = Paragraph { image, prompt, category };
        if rows.iter().any(|other| other.stem() == row.stem()) {
            return Err(Error::file(path, format!("row {}: the image {} is there twice", number + 1, row.image)));
        }
        rows.push(row);
    }
    match rows.is_empty() {
        true => Err(Error::file(path, "no paragraph in it")),
        false => Ok(rows),
    }
}

/// The file of a paragraph's parts, if there is one.
pub fn parts_file(folder: &Path, paragraph: &Paragraph) -> Option<PathBuf> {
    Some(folder.join(format!("{}.json", paragraph.stem()))).filter(|path| path.is_file())
}

/// Reads the parts of a paragraph, in the order of the file.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the object whose entry is wrong.
pub fn parts(path: &Path) -> Result<Vec<Part>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let all: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("expected an object of parts, {{\"name\": {{..}}}}: {e}")))?;
    let mut parts = Vec::new();
    for (object, said) in all {
        let text = |key: &str| match &said[key] {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.trim().to_owned()),
            other => Err(Error::file(path, format!("`{object}`: {key} is {other}; expected a text"))),
        };
        if !said.is_object() {
            return Err(Error::file(path, format!("`{object}` is {said}; expected Attributes and Locations")));
        }
        parts.push(Part { attributes: text("Attributes")?, locations: text("Locations")?, object });
    }
    match parts.is_empty() {
        true => Err(Error::file(path, "no part in it")),
        false => Ok(parts),
    }
}

/// Two questions about each part in DSG's form: is it there, and, which depends on that, does it look as the paragraph says.
/// Locations are left to judges that can read them.
pub fn questions(paragraph: &Paragraph, parts: &[Part]) -> Annotated {
    let mut propositions = Vec::new();
    for part in parts {
        let name = plain_name(&part.object);
        let id = propositions.len() + 1;
        let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        propositions.push(Proposition {
            id,
            parents: Vec::new(),
            tuple: format!("entity - whole ({name})"),
            question: format!("Is there {article} {name}?"),
        });
        if !part.attributes.is_empty() {
            propositions.push(Proposition {
                id: id + 1,
                parents: vec![id],
                tuple: format!("attribute - other ({name}, {})", part.attributes),
                question: format!("Is this true of the {name}: {}?", part.attributes.trim_end_matches('.')),
            });
        }
    }
    Annotated { id: paragraph.stem(), prompt: paragraph.prompt.clone(), propositions }
}

/// "Residential Building 1" is a residential building.
fn plain_name(object: &str) -> String {
    let words = object.split_whitespace();
    let words: Vec<String> = words.filter(|word| word.parse::<u32>().is_err()).map(str::to_lowercase).collect();
    if words.is_empty() { object.trim().to_lowercase() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_parts_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("p.csv");
        let text = "Image,Prompt,Category,Prompt_Chinese\n1.png,\"A street, with houses.\",City,\u{8857}\n";
        std::fs::write(&table, text).unwrap();
        let rows = read(&table).unwrap();
        assert_eq!((rows[0].prompt.as_str(), rows[0].stem().as_str()), ("A street, with houses.", "1"));
        std::fs::write(&table, "Image,Text\n1.png,x\n").unwrap();
        assert!(read(&table).unwrap_err().to_string().contains("no column Prompt"));
        let file = dir.path().join("1.json");
        let json = r#"{"Residential Building 1": {"Attributes": "tall, grey.", "Locations": ""}, "Oak": {"Locations": "left"}}"#;
        std::fs::write(&file, json).unwrap();
        let annotated = questions(&rows[0], &parts(&parts_file(dir.path(), &rows[0]).unwrap()).unwrap());
        let asked: Vec<(&str, &[usize])> =
            annotated.propositions.iter().map(|p| (p.question.as_str(), &p.parents[..])).collect();
        assert_eq!(
            asked,
            [
                ("Is there a residential building?", &[][..]),
                ("Is this true of the residential building: tall, grey?", &[1]),
                ("Is there an oak?", &[]),
            ]
        );
        std::fs::write(&file, r#"{"Oak": "green"}"#).unwrap();
        assert!(parts(&file).unwrap_err().to_string().contains("Oak"));
    }
}
