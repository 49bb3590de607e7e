//! How well pictures show what their prompts say.

pub mod statistics;
