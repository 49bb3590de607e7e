//! Where a tensor's elements are, and the way from one device to another.

use std::sync::Arc;

use super::Tensor;
use super::storage::Storage;
use crate::device::Device;
use crate::device::gpu::Buffer;
use crate::error::Result;

impl Tensor {
    pub fn device(&self) -> Device {
        match &*self.storage {
            Storage::Gpu(memory) => Device::Gpu(memory.gpu().clone()),
            _ => Device::Cpu,
        }
    }

    /// Wraps a GPU's memory as a tensor of `shape`.
    ///
    /// # Panics
    /// If the lengths do not match.
    pub fn on_gpu(memory: Buffer, shape: &[usize]) -> Self {
        assert_eq!(memory.len(), shape.iter().product::<usize>(), "the memory does not fill shape {shape:?}");
        Self::over(Arc::new(Storage::Gpu(memory)), 0, shape)
    }

    /// The GPU's memory that holds the elements; none on the CPU.
    pub fn memory(&self) -> Option<Buffer> {
        match &*self.storage {
            Storage::Gpu(memory) => Some(memory.view(self.offset, self.len())),
            _ => None,
        }
    }

    /// The same values on `device`: the tensor itself where it is there already, else a new one that no tape knows.
    ///
    /// # Errors
    /// What the device says where it has no room, or where something that was launched before has failed.
    pub fn to(&self, device: &Device) -> Result<Self> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        let local = match self.memory() {
            Some(memory) => memory.download(self.shape())?,
            None => self.clone(),
        };
        match device {
            Device::Cpu => Ok(local),
            Device::Gpu(gpu) => Ok(Self::on_gpu(gpu.upload(&local)?, self.shape())),
        }
    }

    /// [`Tensor::to`] the CPU.
    pub fn to_cpu(&self) -> Result<Self> {
        self.to(&Device::Cpu)
    }
}
