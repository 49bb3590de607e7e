//! What a detector saw: JSON files of boxes, and the result files of VISOR's authors.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::asks::Asks;
use super::visor::{Asked, Seen};
use super::{Box, Relation};
use crate::error::{Error, Result};

/// Detections count above this score.
pub const THRESHOLD: f64 = 0.1;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Detection {
    pub label: String,
    pub score: f64,
    /// `[x1, y1, x2, y2]` in pixels, y down.
    #[serde(rename = "box")]
    pub at: Box,
}

/// The detections of each image, by `ID_K`: image K, from 0 on, of prompt ID.
pub type Detections = BTreeMap<String, Vec<Detection>>;

/// One image in the result files of VISOR's authors.
#[derive(Clone, Debug, Deserialize)]
pub struct Recorded {
    pub classes: Vec<String>,
    /// 1 where the relation holds.
    pub sra: u8,
}

/// Reads a detections file.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the image whose entry is no list of detections, or the box without a size.
pub fn read(path: &Path) -> Result<Detections> {
    let detections: Detections = read_json(path)?;
    for (image, found) in &detections {
        let bad = |d: &&Detection| d.at[2] < d.at[0] || d.at[3] < d.at[1];
        if let Some(d) = found.iter().find(bad) {
            let message = format!("{image}: box {:?} of `{}`: expected x1 <= x2 and y1 <= y2", d.at, d.label);
            return Err(Error::file(path, message));
        }
    }
    Ok(detections)
}

/// Reads a result file of VISOR's authors.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`].
pub fn read_recorded(path: &Path) -> Result<BTreeMap<String, Recorded>> {
    read_json(path)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, e.to_string()))
}

/// The prompt of an image's name.
pub fn prompt_of(image: &str) -> &str {
    image.rsplit_once('_').map_or(image, |(prompt, _)| prompt)
}

/// What detections say of one prompt: the relation holds if any of the boxes of its objects hold it.
pub fn seen(asked: &Asked, found: &[Detection], threshold: f64) -> Seen {
    let boxes = |label: &str| -> Vec<&Box> {
        found.iter().filter(|d| d.score > threshold && d.label == label).map(|d| &d.at).collect()
    };
    let (a, b) = (boxes(&asked.a), boxes(&asked.b));
    let c = asked.c.as_deref().map(boxes);
    let holds = |relation: Relation| -> Option<bool> {
        let third: Vec<Option<&Box>> = match &c {
            Some(boxes) => boxes.iter().map(|b| Some(*b)).collect(),
            None => vec![None],
        };
        let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b)));
        let mut all = pairs.flat_map(|(a, b)| third.iter().map(move |c| relation.holds(a, b, *c)));
        // Whether boxes can tell at all depends on the relation alone.
        let probe = [0.0; 4];
        relation.holds(&probe, &probe, Some(&probe))?;
        Some(all.any(|held| held == Some(true)))
    };
    Seen {
        a: !a.is_empty(),
        b: !b.is_empty() && c.as_ref().is_none_or(|c| !c.is_empty()),
        holds: holds(asked.relation),
        opposite: asked.relation.opposite().and_then(holds),
    }
}

/// What the authors' file says of one prompt.
pub fn seen_recorded(asked: &Asked, recorded: &Recorded) -> Seen {
    let present = |label: &String| recorded.classes.contains(label);
    let (a, b) = (present(&asked.a), present(&asked.b));
    Seen { a, b, holds: Some(a && b && recorded.sra == 1), opposite: None }
}

/// Images of prompts in the order of the prompts, for each relation that a prompt states; a prompt without any is left out, and so are the images of prompts that
/// ask for no relation.
///
/// # Errors
/// [`Error::Failed`] naming an image whose prompt is not among them.
pub fn by_prompt<'a, T>(
    asks: &'a Asks,
    images: &'a BTreeMap<String, T>,
    seen: impl Fn(&Asked, &T) -> Seen,
) -> Result<Vec<(&'a Asked, Vec<Seen>)>> {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, asked) in asks.prompts.iter().enumerate() {
        places.entry(&asked.id).or_default().push(i);
    }
    let mut groups: BTreeMap<usize, Vec<Seen>> = BTreeMap::new();
    for (image, found) in images {
        let id = prompt_of(image);
        if asks.left_out.contains(id) {
            continue;
        }
        let own = places.get(id).ok_or_else(|| {
            Error::Failed(format!("image {image}: no prompt has the id `{id}`; an image's name is PROMPT_NUMBER"))
        })?;
        for place in own {
            groups.entry(*place).or_default().push(seen(&asks.prompts[*place], found));
        }
    }
    Ok(groups.into_iter().map(|(place, seen)| (&asks.prompts[place], seen)).collect())
}
