//! LoRA files, merging and baking, against recorded numbers and against each other.

mod bake;
mod convert;
mod dora;
mod extract;
mod formats;
mod lycoris;
mod merge;
mod reports;
mod support;
