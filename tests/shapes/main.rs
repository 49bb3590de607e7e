//! The built-in world, from the outside.

mod captions;
mod vocabulary;
mod world;
