//! Training a LoRA expert: its settings, its learning rates, and the records it leaves.

pub mod checkpoint;
pub mod config;
pub mod examples;
pub mod lr_schedule;
pub mod metrics;
pub mod parameters;
pub mod step;
pub mod tensorboard;
pub mod trainer;
