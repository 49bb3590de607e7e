//! selma trains, samples, merges and scores Stable Diffusion LoRAs.
//!
//! One training step of a LoRA layer, on the tape:
//!
//! ```
//! use selma::autograd::Tape;
//! use selma::ops::{self, LoraLayer, LoraOrder};
//! use selma::tensor::{DType, Tensor};
//!
//! # fn main() -> selma::Result<()> {
//! let x = Tensor::full(&[4, 3], 0.5, DType::F32);
//! let (weight, target) = (Tensor::full(&[2, 3], 0.1, DType::F32), Tensor::zeros(&[4, 2], DType::F32));
//! let (a, b) = (Tensor::full(&[1, 3], 0.2, DType::F32), Tensor::zeros(&[2, 1], DType::F32));
//!
//! let tape = Tape::watching([&a, &b]);
//! let lora = LoraLayer { a: &a, b: &b, scale: 1.0, order: LoraOrder::Auto };
//! let y = ops::lora_linear(&tape, &x, &weight, None, lora)?;
//! let loss = ops::weighted_mse(&tape, &y, &target, &Tensor::full(&[4], 1.0, DType::F32))?;
//! let gradients = tape.backward(&loss)?;
//! assert_eq!(gradients.get(&b).unwrap().shape(), [2, 1]);
//! assert!(gradients.get(&weight).is_none(), "frozen");
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` merges LoRA files, trains a LoRA layer, and generates images. `ARCHITECTURE.md` shows where things live.
//!
//! # The spine
//!
//! ```text
//! captioned images --data--> latents, text states --data::examples--> micro-batch
//!     micro-batch --diffusion::NoiseSchedule--> noisy latents --nn::UNet + LoRA branches--> prediction
//!     prediction --ops::weighted_mse--> loss --autograd::Tape--> gradients --train::FlatParameters--> expert
//! experts --lora::merge--> one LoRA --generate + diffusion::Sampler--> images
//! ```
//!
//! # Reading order
//!
//! [`tensor`], [`autograd`] and one op ([`ops::layer_norm`]) show how everything is computed; [`nn`] is the networks;
//! [`train::step`] is one step of training; [`generate`] is text to image. A module uses only modules before it in the
//! list `dtype`, `random`, `device`, `tensor`, `autograd`, `ops`, `formats`, `page`, `nn`, `lora`, `diffusion`, `data`, `shapes`,
//! `generate`, `train`, `pretrain`, `prompting`, `judges`, `metrics`, `evaluate`, `mix`, `chat`, `spatial`, `associate`,
//! `regenerate`, `run`, `verify`, `selfcheck`, `tuning`, `cli`.

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
pub mod page;
pub mod paragraph;
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
pub mod tuning;
pub mod verify;

pub use error::{Error, Result};
