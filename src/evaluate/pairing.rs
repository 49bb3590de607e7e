//! Which image shows which item of a benchmark.

use std::collections::HashMap;
use std::path::Path;

use super::folder::Entry;
use super::questions::Item;
use crate::error::{Error, Result};

/// A set of images on a benchmark.
pub struct Paired<'a> {
    /// In the order of the images.
    pub images: Vec<(&'a Entry, &'a Item)>,
    /// Items without an image.
    pub missing: Vec<&'a str>,
    /// Images of other prompts.
    pub others: usize,
}

/// By the item's id where the image's row has it, else by the prompt. Images of a prompt that several items have are
/// dealt out in order, as many to each.
///
/// # Errors
/// [`Error::Failed`] where no image belongs to an item, or such images cannot be dealt out.
pub fn pair<'a>(dir: &Path, entries: &'a [Entry], items: &'a [Item]) -> Result<Paired<'a>> {
    let by_id: HashMap<&str, usize> = items.iter().enumerate().map(|(i, item)| (item.id.as_str(), i)).collect();
    let mut by_prompt: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        by_prompt.entry(item.prompt.as_str()).or_default().push(i);
    }
    let known = |entry: &Entry| entry.item_id.as_deref().and_then(|id| by_id.get(id).copied());
    // Images of a prompt that are without an id.
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for entry in entries.iter().filter(|entry| known(entry).is_none()) {
        *counts.entry(entry.prompt.trim()).or_default() += 1;
    }
    let mut dealt: HashMap<&str, usize> = HashMap::new();
    let mut shown = vec![false; items.len()];
    let (mut images, mut others) = (Vec::new(), 0);
    for entry in entries {
        let prompt = entry.prompt.trim();
        let place = match (known(entry), by_prompt.get(prompt)) {
            (Some(place), _) => place,
            (None, None) => {
                others += 1;
                continue;
            }
            (None, Some(same)) => {
                let (count, turn) = (counts[prompt], dealt.entry(prompt).or_default());
                if !count.is_multiple_of(same.len()) {
                    let ids: Vec<&str> = same.iter().map(|&i| items[i].id.as_str()).collect();
                    return Err(Error::Failed(format!(
                        "{}: items {} have the same prompt, and {count} images cannot be shared out among them; give \
                         the rows of metadata.jsonl an `item_id`",
                        dir.display(),
                        ids.join(" and ")
                    )));
                }
                *turn += 1;
                same[(*turn - 1) / (count / same.len())]
            }
        };
        shown[place] = true;
        images.push((entry, &items[place]));
    }
    if images.is_empty() {
        let message = format!("{}: no image was drawn from a prompt of the benchmark", dir.display());
        return Err(Error::Failed(message));
    }
    let missing = items.iter().zip(shown).filter(|(_, shown)| !shown);
    Ok(Paired { missing: missing.map(|(item, _)| item.id.as_str()).collect(), images, others })
}
