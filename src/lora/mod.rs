//! LoRA experts: which modules get one, how files spell them, merging, and baking into base weights.

pub mod attach;
pub mod bake;
pub mod base;
mod beside;
pub mod blocks;
mod compat;
pub mod dense;
pub mod expert;
pub mod extract;
pub mod families;
pub mod file;
pub mod fold;
pub mod gate;
pub mod inspect;
pub mod keys;
mod lycoris;
pub mod merge;
pub mod metadata;
pub mod provenance;
pub mod prune;
pub mod save;
pub mod sgm;
pub mod state;
pub mod svd;
pub mod target;

pub use base::BaseModules;
pub use expert::{Expert, LoraFactors};
pub use file::{Loaded, load};
pub use target::Targets;
