//! Diff-Mix's files: the paths of its images, `meta.csv`, and selma's `labels.jsonl`.

use std::path::Path;

use serde_json::{Value, json};

use super::labels::shares;
use crate::error::{Error, Result};
use crate::formats::atomic;

const HEADER: [&str; 5] = ["First Directory", "Second Directory", "Number", "Strength", "Path"];

/// One image.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Class names, as far as `_` and `/` in them survive the file's format.
    pub source: String,
    pub target: String,
    pub number: usize,
    pub strength: f64,
    /// Relative to `data/`.
    pub path: String,
}

/// A class name in a path: blanks and `/` become `_`.
pub fn directory(class: &str) -> String {
    class.replace([' ', '/'], "_")
}

/// `SOURCE/TARGET-NNNNNN-STRENGTH.png`, the strength as its shortest decimal.
pub fn path(source: &str, target: &str, number: usize, strength: f64) -> String {
    format!("{}/{}-{number:06}-{strength}.png", directory(source), directory(target))
}

/// Target, number and strength of an image's file name; a target's name may have hyphens.
pub fn parse_name(name: &str) -> Option<(String, usize, f64)> {
    let mut parts = name.strip_suffix(".png")?.rsplitn(3, '-');
    let (strength, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((parts.next()?.replace('_', " "), number, strength))
}

/// Reads `meta.csv`.
///
/// # Errors
/// [`Error::File`] naming the line that is not as it should be.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let mut reader = csv::Reader::from_path(path).map_err(|e| Error::file(path, e.to_string()))?;
    let header = reader.headers().map_err(|e| Error::file(path, e.to_string()))?;
    if !header.iter().eq(HEADER) {
        return Err(Error::file(path, format!("the first line: expected {}", HEADER.join(","))));
    }
    let mut rows = Vec::new();
    for (i, record) in reader.records().enumerate() {
        let record = record.map_err(|e| Error::file(path, e.to_string()))?;
        let wrong = |column: &str, value: &str| {
            Error::file(path, format!("line {}: {column} is `{value}`; expected a number", i + 2))
        };
        let strength: f64 = record[3].parse().map_err(|_| wrong("Strength", &record[3]))?;
        rows.push(Row {
            source: record[0].into(),
            target: record[1].into(),
            number: record[2].parse().map_err(|_| wrong("Number", &record[2]))?,
            strength,
            path: record[4].into(),
        });
    }
    Ok(rows)
}

/// Writes `meta.csv`, sorted by path.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    atomic::write(path, |w| {
        let mut writer = csv::WriterBuilder::new().from_writer(w);
        writer.write_record(HEADER)?;
        for row in sorted {
            let (source, target) = (row.source.replace('_', " "), row.target.replace('_', " "));
            writer.write_record([&source, &target, &row.number.to_string(), &row.strength.to_string(), &row.path])?;
        }
        writer.flush()
    })
}

/// A line of `labels.jsonl`: class indices and the soft label, one entry where the classes are one.
///
/// # Errors
/// As [`shares`].
pub fn label(path: &str, source: usize, target: usize, strength: f64, gamma: f64) -> Result<Value> {
    let (of_source, of_target) = shares(strength, gamma)?;
    let mut label = serde_json::Map::new();
    label.insert(source.to_string(), json!(of_source));
    let of_target = if source == target { of_source + of_target } else { of_target };
    label.insert(target.to_string(), json!(of_target));
    Ok(json!({"file": path, "source": source, "target": target, "strength": strength, "gamma": gamma, "label": label}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_may_have_hyphens() {
        let name = path("black footed/albatross", "red-eyed vireo", 12, 0.7);
        assert_eq!(name, "black_footed_albatross/red-eyed_vireo-000012-0.7.png");
        let (_, file) = name.split_once('/').unwrap();
        assert_eq!(parse_name(file), Some(("red-eyed vireo".into(), 12, 0.7)));
        assert_eq!(parse_name("x-1.png"), None);
    }

    #[test]
    fn rows_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("meta.csv");
        let row = |source: &str, number| Row {
            source: source.into(),
            target: "b, c".into(),
            number,
            strength: 0.5,
            path: path(source, "b, c", number, 0.5),
        };
        write(&file, &[row("z", 0), row("a", 1)]).unwrap();
        assert_eq!(read(&file).unwrap(), [row("a", 1), row("z", 0)]);
    }
}
