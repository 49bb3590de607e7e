//! Drawing in a dialogue: a language model asks for images by tags in its replies.
//! Source: Mini-DALLE3, Lai et al. 2023, arXiv:2310.07653.

pub mod session;
pub mod simple_tags;
pub mod tags;
