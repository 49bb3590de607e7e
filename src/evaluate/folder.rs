//! A folder of drawn images as `selma generate` leaves it: `metadata.jsonl`, a row an image.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::questions::Item;
use crate::data::dataset::within;
use crate::error::{Error, Result};
use crate::formats::jsonl;

/// One image to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the folder.
    pub file_name: String,
    pub path: PathBuf,
    pub prompt: String,
    pub skill: Option<String>,
    /// The item of a benchmark that it shows.
    pub item_id: Option<String>,
    /// What its noise was drawn from; where the row does not say, 0 and its place in the file.
    pub seed: u64,
    pub index: u64,
}

#[derive(Deserialize)]
struct Row {
    file_name: String,
    text: String,
    skill: Option<String>,
    #[serde(alias = "id")]
    item_id: Option<Value>,
    seed: Option<u64>,
    index: Option<u64>,
}

/// The images that are there, and the names of those that are not.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the line for a record that is none, or a file outside the folder.
pub fn list(dir: &Path) -> Result<(Vec<Entry>, Vec<String>)> {
    let metadata = dir.join("metadata.jsonl");
    if !metadata.is_file() {
        let message =
            "no metadata.jsonl, which says which prompt each image was drawn from; `selma generate` writes it";
        return Err(Error::file(dir, message));
    }
    let (mut entries, mut missing) = (Vec::new(), Vec::new());
    for (place, (line, row)) in jsonl::read::<Row>(&metadata)?.into_iter().enumerate() {
        let refuse = |why| Error::file(&metadata, format!("line {line}: file_name `{}` {why}", row.file_name));
        match within(dir, &row.file_name).map_err(refuse)? {
            None => missing.push(row.file_name),
            Some(path) => entries.push(Entry {
                file_name: row.file_name,
                path,
                prompt: row.text,
                skill: row.skill,
                item_id: row.item_id.and_then(|id| match id {
                    Value::String(id) => Some(id),
                    Value::Number(id) => Some(id.to_string()),
                    _ => None,
                }),
                seed: row.seed.unwrap_or(0),
                index: row.index.unwrap_or(place as u64),
            }),
        }
    }
    Ok((entries, missing))
}

/// The images of a folder without `metadata.jsonl` whose names are the ids of items, in the order of the items.
///
/// # Errors
/// [`Error::File`] for an item with two images.
pub fn by_name(dir: &Path, items: &[Item]) -> Result<Vec<Entry>> {
    const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
    let mut entries = Vec::new();
    for (index, item) in items.iter().enumerate() {
        // An id is from a file; it names nothing outside of the folder.
        let names = ENDINGS.map(|ending| format!("{}.{ending}", item.id));
        let there = names.into_iter().filter_map(|name| Some((within(dir, &name).ok()??, name)));
        let found: Vec<_> = there.collect();
        if let [(_, first), (_, second), ..] = &found[..] {
            return Err(Error::file(dir, format!("{first} and {second} are both of item {}", item.id)));
        }
        entries.extend(found.into_iter().map(|(path, file_name)| of_item(item, index, path, file_name)));
    }
    Ok(entries)
}

/// One entry for each item, where answers are scored without the images.
pub fn of_items(items: &[Item]) -> Vec<Entry> {
    let entry = |(index, item): (usize, &Item)| of_item(item, index, PathBuf::new(), item.id.clone());
    items.iter().enumerate().map(entry).collect()
}

fn of_item(item: &Item, index: usize, path: PathBuf, file_name: String) -> Entry {
    Entry {
        file_name,
        path,
        prompt: item.prompt.clone(),
        skill: None,
        item_id: Some(item.id.clone()),
        seed: 0,
        index: index as u64,
    }
}
