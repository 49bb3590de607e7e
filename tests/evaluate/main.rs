//! Scores and what can be said of them.

mod scores;
mod statistics;
