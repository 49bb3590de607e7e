//! A minimal tape: ops record closures, [`Tape::backward`] runs them in reverse.

mod checkpoint;
mod tape;

pub use checkpoint::checkpoint;
pub use tape::{Gradients, Tape};
