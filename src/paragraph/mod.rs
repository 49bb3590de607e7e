//! Long prompts: ParaDiffusion's test files, and how well what stands late in a prompt is drawn.
//! Source: Wu et al. 2023, arXiv:2311.14284.

pub mod files;
pub mod late;
