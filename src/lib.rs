//! selma trains, samples, merges and scores Stable Diffusion LoRAs.

pub mod autograd;
pub mod bench;
pub mod cli;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod error;
#[macro_use]
pub mod tensor;
pub mod formats;
pub mod lora;
pub mod nn;
pub mod ops;
pub mod pipeline;
pub mod train;
pub mod verify;

pub use error::{Error, Result};
