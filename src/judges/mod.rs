//! Networks that judge pictures, and what they are given.

pub mod preprocess;
