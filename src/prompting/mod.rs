//! The SELMA method (arXiv 2403.06952): an LLM writes prompts for a skill, the model draws them, an expert learns the
//! skill from its own images, and the experts are merged.

pub mod builtin;
pub mod llm;
pub mod prompts;
pub mod recording;
pub mod reply;
mod reply_json;
pub mod rouge;
pub mod select;
pub mod skill;
pub mod writer;

pub use recording::Record;
pub use skill::Skill;
