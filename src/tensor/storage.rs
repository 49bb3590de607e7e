//! The bytes behind tensors: the host's, which go back to its pool, or a GPU's.

use std::any::Any;

use half::{bf16, f16};

use crate::device::cpu::pool::recycle;
use crate::device::gpu::Buffer;
use crate::dtype::{DType, Element};

/// Typed host memory, which returns itself to the pool when dropped, or memory of a GPU.
pub(crate) enum Storage {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    Gpu(Buffer),
}

impl Storage {
    pub(crate) fn new<T: Element>(data: Vec<T>) -> Self {
        let data: Box<dyn Any> = Box::new(data);
        macro_rules! take {
            ($v:ident) => {
                Storage::$v(*data.downcast().expect("Element's dtype names its type"))
            };
        }
        match T::DTYPE {
            DType::F32 => take!(F32),
            DType::Bf16 => take!(Bf16),
            DType::F16 => take!(F16),
            DType::F64 => take!(F64),
            DType::I64 => take!(I64),
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Storage::F32(_) => DType::F32,
            Storage::Bf16(_) => DType::Bf16,
            Storage::F16(_) => DType::F16,
            Storage::F64(_) => DType::F64,
            Storage::I64(_) => DType::I64,
            Storage::Gpu(memory) => memory.dtype(),
        }
    }

    /// # Panics
    /// If they are not the host's.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Storage::F32(v) => bytemuck::cast_slice(v),
            Storage::Bf16(v) => bytemuck::cast_slice(v),
            Storage::F16(v) => bytemuck::cast_slice(v),
            Storage::F64(v) => bytemuck::cast_slice(v),
            Storage::I64(v) => bytemuck::cast_slice(v),
            Storage::Gpu(memory) => panic!("bytes on {:?} are read through Tensor::to_cpu", memory.gpu()),
        }
    }

    /// # Panics
    /// If they are not the host's.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Storage::F32(v) => bytemuck::cast_slice_mut(v),
            Storage::Bf16(v) => bytemuck::cast_slice_mut(v),
            Storage::F16(v) => bytemuck::cast_slice_mut(v),
            Storage::F64(v) => bytemuck::cast_slice_mut(v),
            Storage::I64(v) => bytemuck::cast_slice_mut(v),
            Storage::Gpu(memory) => panic!("bytes on {:?} are changed by launches", memory.gpu()),
        }
    }

    pub(crate) fn on_host(&self) -> bool {
        !matches!(self, Storage::Gpu(_))
    }

    /// The elements, where `T` is the stored type.
    pub(crate) fn slice<T: Element>(&self) -> Option<&[T]> {
        (T::DTYPE == self.dtype()).then(|| bytemuck::cast_slice(self.bytes()))
    }

    /// Takes the vector out, where `T` is the stored type.
    pub(crate) fn take<T: Element>(&mut self) -> Option<Vec<T>> {
        if T::DTYPE != self.dtype() {
            return None;
        }
        let data: Box<dyn Any> = match self {
            Storage::F32(v) => Box::new(std::mem::take(v)),
            Storage::Bf16(v) => Box::new(std::mem::take(v)),
            Storage::F16(v) => Box::new(std::mem::take(v)),
            Storage::F64(v) => Box::new(std::mem::take(v)),
            Storage::I64(v) => Box::new(std::mem::take(v)),
            Storage::Gpu(_) => return None,
        };
        data.downcast().ok().map(|v| *v)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        match self {
            Storage::F32(v) => recycle(std::mem::take(v)),
            Storage::Bf16(v) => recycle(std::mem::take(v)),
            Storage::F16(v) => recycle(std::mem::take(v)),
            Storage::F64(v) => recycle(std::mem::take(v)),
            Storage::I64(v) => recycle(std::mem::take(v)),
            Storage::Gpu(_) => {}
        }
    }
}
