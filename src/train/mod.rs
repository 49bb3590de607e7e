//! Training a LoRA expert: its settings, what it learns from, the loop, and the records that it leaves.

mod activations;
pub mod branches;
pub mod checkpoint;
pub mod config;
pub mod folder;
pub mod gate;
pub mod loss;
pub mod lr_schedule;
pub mod metrics;
pub mod parameters;
pub mod plan;
pub mod preparation;
pub(crate) mod provenance;
pub mod report;
pub mod samples;
mod saved;
pub mod step;
pub mod steps;
pub mod tensorboard;
pub mod texts;
mod timing;
pub mod tokens;
pub mod trainer;
pub mod validation;
pub mod watcher;
