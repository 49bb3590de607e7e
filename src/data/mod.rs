//! From a folder of captioned images to micro-batches: images are cropped and scaled, captions become token ids, and what
//! the frozen encoders make of both is kept on disk.

pub mod batch;
pub mod buckets;
pub mod captions;
pub mod clip_vocabulary;
pub mod dataset;
pub mod encoders;
pub mod examples;
pub mod image_latents;
pub mod images;
mod kept_latents;
pub mod latent_cache;
pub mod loader;
pub mod manifest;
pub mod masks;
pub mod noise;
pub mod preprocess;
mod prompt_line;
pub mod prompts;
mod rng;
pub mod survey;
pub mod tokenizer;
pub mod windows;
pub mod word_piece;
