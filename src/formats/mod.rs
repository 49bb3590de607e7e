//! Files: containers, configurations, images. Every writer goes through [`atomic::write`].

pub mod atomic;
pub mod safetensors;
