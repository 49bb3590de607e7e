//! An image drawn anew from words alone: describe, draw, compare, revise.
//! Source: ImageRepainter, Meng et al. 2024, arXiv:2411.09449; prompts and rules are selma's own.

pub mod compare;
pub mod progress;
pub mod revision;
pub mod sheet;
pub mod trace;
