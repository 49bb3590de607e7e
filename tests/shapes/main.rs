//! The built-in world, from the outside.

mod accuracy;
mod builtin;
mod captions;
mod degraded;
mod judge;
mod vocabulary;
mod world;
