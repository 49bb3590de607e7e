//! The world of the built-in `shapes` model: coloured shapes on a background, captions that tell of them, and a judge.
//!
//! [`Skill::prompt`] draws what a caption claims (a [`description::Description`]) and words it; [`scene::lay_out`] finds
//! a place for everything; [`render()`] paints it. Everything is a function of (seed, skill, split, index): any number of
//! pairs, in any order, on any number of threads.

pub mod builtin;
pub mod caption;
pub mod careless;
pub mod description;
pub mod judge;
pub mod model;
mod outline;
mod render;
pub mod rng;
pub mod scene;
mod skill;
mod spots;
pub mod vocabulary;

pub use render::{SIDE, render};
pub use skill::{Prompt, Skill, Split};
