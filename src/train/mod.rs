//! Training a LoRA expert: its settings, its learning rates, and the records it leaves.

pub mod config;
pub mod lr_schedule;
pub mod metrics;
pub mod parameters;
pub mod step;
pub mod tensorboard;
