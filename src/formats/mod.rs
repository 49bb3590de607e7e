//! Files: containers, configurations, images. Every writer goes through [`atomic::write`].

pub mod atomic;
pub mod cache;
pub mod checkpoint;
pub mod component;
pub mod content_hash;
pub mod digest;
pub mod embeddings;
pub mod hub;
pub mod image;
pub mod journal;
pub mod json;
pub mod jsonl;
pub mod model_dir;
pub mod model_summary;
pub mod npz;
pub mod pickle;
pub mod png;
pub mod safetensors;
pub mod table;
pub mod tensor_file;
