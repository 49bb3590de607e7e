//! The benchmark `shapes`: the built-in judge on images of the built-in world.

use ::image::RgbImage;
use rayon::prelude::*;

use super::folder::Entry;
use super::scores::{Answered, ScoredImage, Scores};
use crate::error::{Error, Result};
use crate::formats::image;
use crate::shapes::caption::parse;
use crate::shapes::judge::{Naming, View, judge, questions};

/// How well an image shows what its caption claims: the score in [0, 1], and what was asked.
///
/// # Errors
/// [`Error::Failed`] if the caption names no shape.
pub fn score(image: &RgbImage, caption: &str) -> Result<(f64, Vec<Answered>)> {
    score_as(image, caption, Naming::Lenient)
}

fn score_as(image: &RgbImage, caption: &str, naming: Naming) -> Result<(f64, Vec<Answered>)> {
    let questions = questions(&parse(caption)?);
    let verdict = judge(&View::named(image, naming), &questions);
    let score = verdict.score();
    let answers = verdict.answers.into_iter().zip(verdict.gated);
    let answered = questions.iter().zip(answers).map(|(question, (yes, counts))| Answered {
        id: question.id,
        parents: question.parents.clone(),
        category: match question.category() {
            (broad, "-") => broad.into(),
            (broad, detailed) => format!("{broad} - {detailed}"),
        },
        question: question.text(),
        answer: None,
        yes,
        counts,
    });
    Ok((score, answered.collect()))
}

/// Scores images; `seed` is that of the intervals.
///
/// # Errors
/// As [`score`], naming the image; as [`Scores::of`]; [`Error::Io`] and [`Error::File`] for an image that cannot be read.
pub fn evaluate(entries: &[Entry], seed: u64) -> Result<Scores> {
    evaluate_as(entries, Naming::Lenient, seed)
}

/// The same by a judge that names things so.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_as(entries: &[Entry], naming: Naming, seed: u64) -> Result<Scores> {
    let one = |entry: &Entry| -> Result<ScoredImage> {
        let (score, questions) = score_as(&image::read(&entry.path)?, &entry.prompt, naming)
            .map_err(|why| Error::Failed(format!("{}: {why}", entry.path.display())))?;
        Ok(ScoredImage {
            file_name: entry.file_name.clone(),
            prompt: entry.prompt.clone(),
            skill: entry.skill.clone(),
            item_id: None,
            family: None,
            seed: entry.seed,
            index: entry.index,
            score,
            questions,
        })
    };
    let images = entries.par_iter().map(one).collect::<Result<_>>()?;
    let judge = match naming {
        Naming::Lenient => "builtin",
        Naming::Strict => "builtin, strict",
    };
    Scores::of("shapes", judge, images, seed)
}
