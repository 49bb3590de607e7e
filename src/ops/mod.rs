//! The operations of the engine, one a file: check, CPU body, gradient. Every op takes the tape first and records
//! itself where a tracked tensor enters it. Tensors in a GPU's memory take the second implementation, in `on_gpu`.

mod attention;
mod combination;
mod combine;
mod conv2d;
mod elementwise;
mod embedding;
mod geglu;
mod group;
mod group_norm;
mod layer_norm;
mod linear;
mod lora;
mod loss;
mod on_gpu;
pub mod optimizer;
mod permute;
mod posterior;
mod resample;

pub use attention::attention;
pub use combination::Combination;
pub(crate) use combination::evaluate;
pub use combine::{clamp, combine};
pub use conv2d::{Padding, Plus, conv2d, conv2d_plus, upsample_conv2d};
pub use elementwise::{add, add_channel_bias, cast, gelu, quick_gelu, scale, silu};
pub use embedding::{embedding, timestep_embedding};
pub use geglu::{geglu, linear_geglu};
pub use group::linear_group;
pub use group_norm::group_norm;
pub use layer_norm::layer_norm;
pub use linear::{add_linear, linear};
pub use lora::{Branch, LoraOrder, LoraSizes, lora_linear};
pub use loss::weighted_mse;
pub use permute::{concat_channels, reshape, select_rows, slice_channels};
pub use posterior::{LOG_VARIANCE, kl_divergence, posterior_sample};
pub use resample::upsample_nearest;
