//! Passes over flat buffers: squared norm, clipping, AdamW.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;
