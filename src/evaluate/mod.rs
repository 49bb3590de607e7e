//! How well pictures show what their prompts say.

pub mod comparison;
pub mod folder;
mod groups;
pub mod scores;
pub mod shapes;
pub mod statistics;
