//! Training a LoRA expert: its settings, what it learns from, the loop, and the records that it leaves.

mod activations;
pub mod branches;
pub mod checkpoint;
pub mod config;
pub mod encoders;
pub mod examples;
pub mod folder;
pub mod identity;
mod latents;
pub mod lr_schedule;
pub mod manifest;
pub mod metrics;
pub mod parameters;
pub mod pictures;
pub mod plan;
pub mod preparation;
pub mod replay;
pub mod samples;
pub mod step;
pub mod tensorboard;
pub mod trainer;
pub mod watcher;
