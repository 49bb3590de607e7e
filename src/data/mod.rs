//! From a folder of pictures and captions to batches: captions become token ids, pictures become `[h, w, 3]` values,
//! and what the frozen encoders make of both is kept on disk.

pub mod clip_vocabulary;
pub mod dataset;
mod draw;
pub mod image_latents;
pub mod latent_cache;
pub mod loader;
pub mod preprocess;
mod prompt_line;
pub mod prompts;
pub mod tokenizer;
pub mod windows;
pub mod word_piece;
