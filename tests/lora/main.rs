//! LoRA files, merging and baking, against recorded numbers and against each other.

mod formats;
mod support;
