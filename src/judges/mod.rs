//! Networks that judge images, and what they are given.

pub mod aesthetic;
pub mod blip;
pub mod cache;
pub mod clip;
pub mod extract;
pub mod files;
pub mod image_reward;
pub mod inception;
pub mod kind;
mod layout;
pub mod lpips;
pub mod preprocess;
pub mod scorer;
pub mod visual_qa;

pub use aesthetic::Aesthetic;
