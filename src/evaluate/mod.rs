//! How well images show what their prompts say.

pub mod answers;
pub mod comparison;
pub mod folder;
mod groups;
pub mod pairing;
pub mod quality;
pub mod question_scores;
pub mod questions;
pub mod replies;
pub mod scorers;
pub mod scores;
pub mod shapes;
pub mod statistics;
pub mod vision;
pub mod visual_qa;
