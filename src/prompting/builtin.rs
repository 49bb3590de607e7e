//! The writer of prompts for the built-in model: captions of its world, for training.

use super::rouge::Pool;
use crate::error::{Error, Result};
use crate::shapes::{self, Split};

/// Captions that are looked at for one that is kept.
const TRIES: u64 = 200;

/// `count` captions of a skill, none more similar to one before it than `max_similarity` (ROUGE-L F). A function of its
/// arguments.
///
/// # Errors
/// [`Error::Usage`] for a skill that the built-in world does not have; [`Error::Failed`] where it has too few captions.
pub fn captions(skill: &str, count: usize, max_similarity: f64, seed: u64) -> Result<Vec<String>> {
    let world = shapes::Skill::from_name(skill)?;
    let (mut pool, mut kept) = (Pool::default(), Vec::new());
    for index in 0..TRIES * count as u64 {
        let caption = world.prompt(Split::Train, seed, index).caption;
        if pool.nearest_above(&caption, max_similarity).is_none() {
            pool.insert(&caption);
            kept.push(caption);
        }
        if kept.len() == count {
            return Ok(kept);
        }
    }
    Err(Error::Failed(format!(
        "the built-in world has {} captions of {skill} that are not too similar to each other, and {count} are wanted; \
         take fewer, or a larger similarity",
        kept.len()
    )))
}
