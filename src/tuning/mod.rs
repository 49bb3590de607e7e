//! Kernels that prove themselves on the device before they are used.
//!
//! An operation with several kernels ([`choice`](crate::device::gpu::choice)) has a reference: one plain tile, in one slice.
//! Every other choice is a candidate. `proof` holds a candidate against the reference, in a process of its own ([`child`]),
//! since a kernel that hangs or fails takes the process's device with it. What came out is in a [`table`] in the user's cache, by
//! device, driver and kernels. A [`Decider`] chooses by that table for a run, and `record` keeps what it chose.

pub mod child;
mod decider;
mod numbers;
mod proof;
mod record;
mod replica;
pub mod table;

pub use child::{Prover, Verdict};
pub use decider::Decider;

use serde::{Deserialize, Serialize};

/// How a run chooses between kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What has proved itself on this device: the fastest where times are known, else what the cost model takes.
    Proved,
    /// What the cost model takes, proved or not.
    Model,
    /// The reference.
    Reference,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Proved => "proved",
            Self::Model => "model",
            Self::Reference => "reference",
        }
    }
}
