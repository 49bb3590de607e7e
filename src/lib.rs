//! selma trains, samples, merges and scores Stable Diffusion LoRAs.

pub mod autograd;
pub mod device;
pub mod error;
#[macro_use]
pub mod tensor;
pub mod formats;
pub mod ops;

pub use error::{Error, Result};
