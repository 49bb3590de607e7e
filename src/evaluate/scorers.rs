//! Benchmarks of one number an image: CLIPScore, PickScore, HPS, ImageReward, aesthetics.

use super::folder::Entry;
use super::scores::{ScoredImage, Scores};
use crate::error::Result;
pub use crate::judges::cache::ValueCache;
use crate::judges::scorer::{Scorer, Subject};

/// Scores images by their prompts; `seed` is that of the intervals. `progress` is told how many images are done.
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
    let image = |(entry, score): (&Entry, f64)| ScoredImage {
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
    let images = entries.iter().zip(scores).map(image).collect();
    Scores::of(scorer.kind.name(), &scorer.describe(), images, seed)
}
