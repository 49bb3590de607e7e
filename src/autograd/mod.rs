//! A minimal tape: ops record closures, [`Tape::backward`] runs them in reverse.

mod checkpoint;
mod later;
mod tape;

pub use checkpoint::checkpoint;
pub(crate) use later::{Kind, Later, Tensors};
pub(crate) use tape::Made;
pub use tape::{Gradients, Tape};
