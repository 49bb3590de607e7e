//! `state/data.jsonl`: what a run learns from, a line a sample, so that a resume against other images or captions can
//! say which they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::data::dataset::{Dataset, Sample};
use crate::data::images::ImageFile;
use crate::error::{Error, Result};
use crate::formats::jsonl;

/// Differences that are named; of more, only their number.
const NAMED: usize = 3;

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Row {
    /// Relative to the data's folder.
    file_name: String,
    sha256: String,
    text: String,
}

/// The samples of a dataset, in their order.
pub struct Manifest {
    root: PathBuf,
    rows: Vec<Row>,
}

impl Manifest {
    /// The dataset in the folder `root`.
    pub fn new(root: &Path, dataset: &Dataset, images: &[ImageFile]) -> Self {
        let row = |(sample, image): (&Sample, &ImageFile)| {
            let name = sample.image.strip_prefix(root).unwrap_or(&sample.image);
            Row {
                file_name: name.to_string_lossy().into_owned(),
                sha256: image.digest.clone(),
                text: sample.captions.join("\n"),
            }
        };
        Self { root: root.into(), rows: dataset.samples().iter().zip(images).map(row).collect() }
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let record = |row: &Row| json!({ "file_name": row.file_name, "sha256": row.sha256, "text": row.text });
        jsonl::write(path, &self.rows.iter().map(record).collect::<Vec<_>>())
    }

    /// Finds out whether `path` lists the same; a file that is not there says nothing.
    ///
    /// # Errors
    /// [`Error::File`] that names what was added, removed or changed; as [`jsonl::read`].
    pub fn check(&self, path: &Path) -> Result<()> {
        if !path.is_file() {
            return Ok(());
        }
        let then: Vec<Row> = jsonl::read(path)?.into_iter().map(|(_, row)| row).collect();
        if then == self.rows {
            return Ok(());
        }
        let mut found = differences(&by_name(&then), &by_name(&self.rows));
        if found.is_empty() {
            found.push("the samples are in another order".into());
        }
        let more = match found.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        found.truncate(NAMED);
        let message = format!(
            "the data is not what this run began with: {}{more}; bring it back, or start anew with another --out",
            found.join(", ")
        );
        Err(Error::file(&self.root, message))
    }
}

/// An image may be listed more than once, with other captions.
fn by_name(rows: &[Row]) -> BTreeMap<&str, Vec<&Row>> {
    let mut named: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        named.entry(&row.file_name).or_default().push(row);
    }
    named
}

fn differences(then: &BTreeMap<&str, Vec<&Row>>, now: &BTreeMap<&str, Vec<&Row>>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, before) in then {
        match now.get(name) {
            None => found.push(format!("{name} is gone")),
            Some(after) if before[0].sha256 != after[0].sha256 => found.push(format!("{name} is another image")),
            Some(after) if before != after => found.push(format!("{name} has another caption")),
            Some(_) => {}
        }
    }
    found.extend(now.keys().filter(|name| !then.contains_key(*name)).map(|name| format!("{name} is new")));
    found
}
