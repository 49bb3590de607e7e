//! selma trains, samples, merges and scores Stable Diffusion LoRAs.
//!
//! # The spine
//!
//! ```text
//! captioned images --data--> latents, text states --data::examples--> micro-batch
//!     micro-batch --diffusion::NoiseSchedule--> noisy latents --nn::UNet + LoRA branches--> prediction
//!     prediction --ops::weighted_mse--> loss --autograd::Tape--> gradients --train::FlatParameters--> expert
//! experts --lora::merge--> one LoRA --generate + diffusion::Sampler--> pictures
//! ```
//!
//! # Reading order
//!
//! [`tensor`], [`autograd`] and one op ([`ops::layer_norm`]) show how everything is computed; [`nn`] is the networks;
//! [`train::step`] is one step of training; [`generate`] is text to image. A module uses only modules before it in the
//! list `dtype`, `random`, `device`, `tensor`, `autograd`, `ops`, `formats`, `nn`, `lora`, `diffusion`, `data`, `shapes`,
//! `generate`, `train`, `pretrain`, `prompting`, `judges`, `metrics`, `evaluate`, `mix`, `chat`, `spatial`, `associate`,
//! `regenerate`, `run`, `verify`, `selfcheck`, `cli`.

pub mod associate;
pub mod autograd;
pub mod bench;
pub mod chat;
pub mod cli;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod dtype;
pub mod error;
pub mod evaluate;
pub mod formats;
pub mod generate;
pub mod judges;
pub mod lora;
pub mod metrics;
pub mod mix;
pub mod nn;
pub mod ops;
pub mod pretrain;
pub mod prompting;
pub mod random;
pub mod regenerate;
pub mod run;
pub mod selfcheck;
mod settings;
pub mod shapes;
pub mod spatial;
pub mod tensor;
pub mod train;
pub mod verify;

pub use error::{Error, Result};
