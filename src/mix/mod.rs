//! Diff-Mix: images on their way from one class to another, with soft labels.
//! Source: Wang et al. 2024, arXiv:2403.19600.

pub mod labels;
pub mod meta;
pub mod plan;
