//! The method around the engine: skills, prompts and their filter, and the client that asks for them.

mod eval;
mod hub;
mod llm;
mod prompts;
mod questions;
mod reply;
mod rouge;
mod select;
mod server;
mod skill;
