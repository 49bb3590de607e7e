//! Spatial relations between the objects of a picture: what boxes say of them, VISOR's shares, and suites of prompts.

pub mod detections;
pub mod relation;
pub mod suite;
pub mod visor;

pub use relation::{Box, Relation};
