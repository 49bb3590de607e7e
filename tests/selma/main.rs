//! The method around the engine: skills, prompts and their filter.

mod rouge;
mod skill;
