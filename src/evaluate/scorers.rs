//! Benchmarks of one number a picture: CLIPScore, PickScore, HPS, ImageReward, aesthetics.

use super::folder::Entry;
use super::scores::{Picture, Scores};
use crate::error::Result;
pub use crate::judges::cache::ValueCache;
use crate::judges::scorer::{Scorer, Subject};

/// Scores pictures by their prompts; `seed` is that of the intervals. `progress` is told how many pictures are done.
///
/// # Errors
/// As [`Scorer::scores`] and [`Scores::of`].
pub fn evaluate(
    scorer: &Scorer,
    entries: &[Entry],
    cache: &ValueCache,
    seed: u64,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Scores> {
    let subjects: Vec<Subject> =
        entries.iter().map(|entry| Subject { path: &entry.path, prompt: &entry.prompt }).collect();
    let scores = scorer.scores(&subjects, cache, progress)?;
    let picture = |(entry, score): (&Entry, f64)| Picture {
        file_name: entry.file_name.clone(),
        prompt: entry.prompt.clone(),
        skill: entry.skill.clone(),
        item_id: entry.item_id.clone(),
        family: None,
        seed: entry.seed,
        index: entry.index,
        score,
        questions: Vec::new(),
    };
    let pictures = entries.iter().zip(scores).map(picture).collect();
    Scores::of(scorer.kind.name(), &scorer.describe(), pictures, seed)
}
