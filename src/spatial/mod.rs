//! Spatial relations between the objects of an image: what boxes say of them, VISOR's shares, and suites of prompts.

pub mod answers;
pub mod asks;
pub mod detections;
pub mod layout;
pub mod relation;
pub mod suite;
pub mod visor;

pub use relation::{Box, Relation};
