//! Where a tensor's elements are, and the way from one device to another.

use std::sync::Arc;

use half::{bf16, f16};

use super::Tensor;
use super::storage::Storage;
use crate::device::Device;
use crate::device::gpu::table::Kernel;
use crate::device::gpu::{Buffer, Gpu, Launcher, Operand, Span};
use crate::dtype::DType;
use crate::error::{Error, Result};

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

    /// The GPU that holds the elements.
    ///
    /// # Errors
    /// [`Error::Failed`] where they are on the CPU: an op came to its GPU body with a tensor of the other kind.
    pub(crate) fn gpu(&self) -> Result<&Gpu> {
        match &*self.storage {
            Storage::Gpu(memory) => Ok(memory.gpu()),
            _ => Err(Error::Failed(format!("{self:?} is on the CPU, but what it belongs to is on a GPU"))),
        }
    }

    /// A new tensor of `shape` and `dtype` on the GPU of this one, with unspecified values: what a launch will write.
    ///
    /// # Errors
    /// As [`Tensor::gpu`]; where the device has no room.
    pub(crate) fn new_empty(&self, shape: &[usize], dtype: DType) -> Result<Self> {
        Ok(Self::on_gpu(self.gpu()?.buffer(dtype, shape.iter().product())?, shape))
    }

    /// [`Tensor::new_empty`] of this shape and dtype.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn empty_like(&self) -> Result<Self> {
        self.new_empty(self.shape(), self.dtype())
    }

    /// Begins a launch on the GPU of this tensor, of `kernel` as compiled for its dtype.
    ///
    /// # Errors
    /// As [`Tensor::gpu`].
    pub(crate) fn kernel(&self, kernel: &'static Kernel) -> Result<Launcher<'_>> {
        Ok(self.gpu()?.kernel(kernel, self.dtype()))
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
            Some(memory) => Self::downloaded(&memory, self.shape())?,
            None => self.clone(),
        };
        match device {
            Device::Cpu => Ok(local),
            Device::Gpu(gpu) => Ok(Self::on_gpu(gpu.upload_bytes(local.bytes(), local.dtype())?, self.shape())),
        }
    }

    fn downloaded(memory: &Buffer, shape: &[usize]) -> Result<Self> {
        Ok(match memory.dtype() {
            DType::F32 => Self::new(memory.download::<f32>()?, shape),
            DType::Bf16 => Self::new(memory.download::<bf16>()?, shape),
            DType::F16 => Self::new(memory.download::<f16>()?, shape),
            DType::F64 => Self::new(memory.download::<f64>()?, shape),
            DType::I64 => Self::new(memory.download::<i64>()?, shape),
        })
    }

    /// [`Tensor::to`] the CPU.
    ///
    /// # Errors
    /// As [`Tensor::to`].
    pub fn to_cpu(&self) -> Result<Self> {
        self.to(&Device::Cpu)
    }
}

impl Operand for Tensor {
    fn span(&self) -> Option<Span<'_>> {
        match &*self.storage {
            Storage::Gpu(memory) => Some(memory.span_of(self.offset, self.len())),
            _ => None,
        }
    }
}

/// The device that holds all of `tensors`; the CPU where there are none.
///
/// # Errors
/// [`Error::Shape`] where they are not all on one device.
pub(crate) fn device_of(op: &'static str, tensors: &[&Tensor]) -> Result<Device> {
    let Some((first, rest)) = tensors.split_first() else {
        return Ok(Device::Cpu);
    };
    let device = first.device();
    match rest.iter().find(|x| x.device() != device) {
        None => Ok(device),
        Some(x) => {
            let (here, there) = (device.name(), x.device().name());
            Err(Error::shape(op, format!("{first:?} is on {here}, but {x:?} is on {there}")))
        }
    }
}
