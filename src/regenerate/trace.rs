//! The loop over one reference: describe, then draw, compare and revise until nothing is gained.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::compare::{Comparison, Likeness, Objective};
use super::progress::Progress;
use super::revision;
use crate::error::{Error, Result};
use crate::evaluate::replies::Replies;

/// How long the loop runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub rounds: usize,
    /// Images of a round.
    pub candidates: usize,
    /// Rounds in a row without a gain after which it stops.
    pub patience: usize,
}

/// A candidate of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub file: String,
    /// What with the run's seed decides its noise.
    pub index: u64,
    pub score: f64,
    pub metrics: Likeness,
}

/// A round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    pub prompt: String,
    /// What the model wrote: the description, or the revision.
    pub reply: String,
    /// What it says that the best candidate has otherwise than the reference.
    pub differences: Vec<String>,
    /// The reply could not be used, so the prompt stayed.
    pub unusable: bool,
    pub candidates: Vec<Candidate>,
}

/// All that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// SHA-256 of the reference.
    pub reference: String,
    pub objective: Objective,
    /// What compares, and its weights.
    pub judge: String,
    pub seed: u64,
    pub limits: Limits,
    /// The reference against itself.
    pub identity: Likeness,
    pub rounds: Vec<Round>,
    /// Round, candidate and score.
    pub best: (usize, usize, f64),
    pub unusable_replies: usize,
}

/// Who draws.
pub trait Painter {
    /// Draws candidate `index` of `prompt` into its file, unless it is there already, and says where it is.
    ///
    /// # Errors
    /// Those of the networks and of files.
    fn paint(&mut self, prompt: &str, round: usize, candidate: usize, index: u64) -> Result<PathBuf>;
}

const DESCRIBE: &str = "\
Write a prompt for a text-to-image model that makes it draw this picture. Name the subject, how many things there are, their \
colours, sizes and places, what is where in relation to what, the background, the style, the view and the light. Write one \
paragraph of at most 60 words, and nothing else.";

fn revise(prompt: &str, score: f64) -> String {
    format!(
        "The first picture is a reference. The second was drawn by a text-to-image model from the prompt below, and has a \
         likeness of {score:.4}. Compare them, and change the prompt so that the next drawing is more like the reference. \
         Reply with a JSON object alone: {{\"differences\": [\"...\"], \"prompt\": \"...\"}}. The prompt has at most 60 \
         words.\nPrompt: {prompt}"
    )
}

/// Runs the loop. `first` is the number of its first request, and `told` is called after each round with what is best so
/// far.
///
/// # Errors
/// Those of the replies, of `painter` and of the comparison; what `told` stops the work by.
#[allow(clippy::too_many_arguments)]
pub fn run(
    comparison: &Comparison,
    hash: String,
    objective: Objective,
    judge: String,
    seed: u64,
    limits: &Limits,
    replies: &mut Replies,
    first: u64,
    painter: &mut dyn Painter,
    told: &mut dyn FnMut(usize, &str, f64) -> Result<()>,
) -> Result<Trace> {
    let reference = comparison.reference().to_path_buf();
    let identity = comparison.likeness(&reference)?;
    objective.of(&identity)?;
    let description = replies.ask(first, DESCRIBE, &[&reference])?;
    let mut prompt = one_line(&description);
    if prompt.is_empty() {
        return Err(Error::Failed("the model describes the reference by nothing".into()));
    }
    let (mut reply, mut differences, mut unusable) = (description, Vec::new(), false);
    let mut progress = Progress::new(limits.patience);
    let mut rounds: Vec<Round> = Vec::new();
    loop {
        let number = rounds.len();
        let mut candidates = Vec::new();
        for candidate in 0..limits.candidates {
            let index = (number * limits.candidates + candidate) as u64;
            let path = painter.paint(&prompt, number, candidate, index)?;
            let metrics = comparison.likeness(&path)?;
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            candidates.push(Candidate { file, index, score: objective.of(&metrics)?, metrics });
        }
        let scores: Vec<f64> = candidates.iter().map(|candidate| candidate.score).collect();
        rounds.push(Round { prompt: prompt.clone(), reply, differences, unusable, candidates });
        let goes_on = progress.add(&scores)?;
        let best = progress.best().expect("a round has candidates");
        told(number, &prompt, best.score)?;
        if !goes_on || rounds.len() >= limits.rounds {
            let unusable_replies = rounds.iter().filter(|round| round.unusable).count();
            let best = (best.round, best.candidate, best.score);
            let (seed, limits) = (seed, limits.clone());
            return Ok(Trace {
                reference: hash,
                objective,
                judge,
                seed,
                limits,
                identity,
                rounds,
                best,
                unusable_replies,
            });
        }
        let of_best = &rounds[best.round];
        let drawn =
            painter.paint(&of_best.prompt, best.round, best.candidate, of_best.candidates[best.candidate].index)?;
        let text = revise(&of_best.prompt, best.score);
        reply = replies.ask(first + rounds.len() as u64, &text, &[&reference, &drawn])?;
        match revision::parse(&reply) {
            Some(revised) => {
                (prompt, differences, unusable) = (one_line(&revised.prompt), revised.differences, false);
            }
            None => (differences, unusable) = (Vec::new(), true),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
