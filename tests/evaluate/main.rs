//! Scores and what can be said of them.

mod questions;
mod scores;
mod statistics;
