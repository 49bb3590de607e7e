//! LoRA files, merging and baking, against recorded numbers and against each other.

mod bake;
mod convert;
mod formats;
mod merge;
mod reports;
mod support;
