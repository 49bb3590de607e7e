//! Which candidate is the best so far, and when to stop.

use crate::error::{Error, Result};

/// A candidate of a round, and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    pub round: usize,
    pub candidate: usize,
    pub score: f64,
}

/// The best never falls: an equal score later does not replace it.
#[derive(Clone, Debug)]
pub struct Progress {
    patience: usize,
    rounds: usize,
    without_gain: usize,
    best: Option<Best>,
}

impl Progress {
    /// Stops after `patience` rounds in a row without a strict gain.
    pub fn new(patience: usize) -> Self {
        Self { patience, rounds: 0, without_gain: 0, best: None }
    }

    /// Adds a round's scores; whether another round is to be drawn.
    ///
    /// # Errors
    /// [`Error::Failed`] for a round without candidates, or a NaN.
    pub fn add(&mut self, scores: &[f64]) -> Result<bool> {
        let round = self.rounds;
        if scores.is_empty() {
            return Err(Error::Failed(format!("round {round} has no candidates")));
        }
        let mut gained = false;
        for (candidate, &score) in scores.iter().enumerate() {
            if score.is_nan() {
                return Err(Error::Failed(format!("round {round}: the score of candidate {candidate} is NaN")));
            }
            if self.best.is_none_or(|best| score > best.score) {
                self.best = Some(Best { round, candidate, score });
                gained = true;
            }
        }
        self.rounds += 1;
        self.without_gain = if gained { 0 } else { self.without_gain + 1 };
        Ok(self.without_gain < self.patience)
    }

    pub fn best(&self) -> Option<Best> {
        self.best
    }

    pub fn rounds(&self) -> usize {
        self.rounds
    }
}
