//! The networks: thin layers over [`crate::ops`], named as in checkpoints, built from a model's own configuration.

pub mod bert;
mod blip;
mod clip;
mod clip_model;
pub mod config;
mod conv;
mod encoder_layer;
mod inception;
pub mod layout;
mod linear;
mod lpips;
mod norm;
mod param;
mod resnet;
mod save;
mod score_head;
mod timestep;
mod transformer;
mod unet;
mod unet_blocks;
mod unet_config;
mod vae;
mod vae_blocks;
mod vision_tower;
mod weights;

pub use blip::{BlipSettings, BlipVision, BlipVqa, ImageReward};
pub use clip::{ClipConfig, ClipInput, ClipOutput, ClipText};
pub use clip_model::{ClipModel, ClipSettings, ImageOutput};
pub use config::Config;
pub use conv::Conv2d;
pub use encoder_layer::{Activation, LayerConfig};
pub use inception::{Inception, InceptionOutput};
pub use linear::Linear;
pub use lpips::Lpips;
pub use norm::{GroupNorm, LayerNorm};
pub use param::{LoraWeights, Param};
pub use save::save;
pub use score_head::ScoreHead;
pub use unet::{AddedConditions, UNet};
pub use unet_config::{AddedEmbedding, UNetConfig};
pub use vae::{AutoencoderKl, VaeConfig};
pub use vision_tower::{VisionConfig, VisionTower};
pub use weights::Weights;

use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::ops;
use crate::tensor::{DType, Tensor};

/// A layer that can carry a LoRA branch, as the models' `visit` hands it out.
pub enum Layer<'a> {
    Linear(&'a mut Linear),
    Conv(&'a mut Conv2d),
}

impl Layer<'_> {
    /// The dotted path from the model's root, as in checkpoints.
    pub fn name(&self) -> &str {
        match self {
            Layer::Linear(layer) => &layer.name,
            Layer::Conv(layer) => &layer.name,
        }
    }
}

/// A model's input on the model's device and in its type. Neither has a gradient, so a tracked input must be there and
/// have that type already.
fn input(tape: &Tape, x: &Tensor, device: &Device, dtype: DType) -> Result<Tensor> {
    if x.dtype() != dtype || x.device() != *device {
        tape.refuse("rounding of a network's input", x)?;
    }
    ops::cast(&x.to(device)?, dtype)
}

/// Brings parameters to `device`, one after the other; the memory that they leave is free for the next.
pub(crate) fn move_to(parameters: &[Param], device: &Device) -> Result<()> {
    for param in parameters {
        param.set(param.get().to(device)?);
    }
    Ok(())
}

/// What a model calls for each of its layers.
pub type Visitor<'v> = dyn FnMut(Layer<'_>) + 'v;
