//! A picture drawn anew from words alone: describe, draw, compare, revise. Source: ImageRepainter.

pub mod progress;
pub mod revision;
