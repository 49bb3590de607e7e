//! The ops on tensors in a GPU's memory: a launch or a few each, forward and backward. The op has checked the shapes and
//! comes here where [`holds`] says so; nothing falls back to the CPU.

mod conv2d;

pub(super) use conv2d::conv2d;

use crate::device::Device;
use crate::device::gpu::Buffer;
use crate::error::Result;
use crate::tensor::{Tensor, device_of};

/// Whether the tensors that enter an op are in a GPU's memory.
///
/// # Errors
/// [`Error::Shape`] where they are not all on one device.
pub(super) fn holds(op: &'static str, inputs: &[&Tensor]) -> Result<bool> {
    Ok(device_of(op, inputs)? != Device::Cpu)
}

/// The memory of a tensor that the op has found on a GPU, or of a gradient that came back from one.
pub(super) fn of(x: &Tensor) -> Result<Buffer> {
    x.gpu()?;
    Ok(x.memory().expect("on a GPU"))
}
