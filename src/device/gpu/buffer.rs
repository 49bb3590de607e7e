//! Memory of a GPU.

use std::sync::Arc;

use super::Gpu;
use super::graph::Command;
use super::launch::Span;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};

/// Typed elements in a GPU's memory. A clone or a [`Buffer::view`] shares them.
#[derive(Clone, Debug)]
pub struct Buffer {
    allocation: Arc<Allocation>,
    dtype: DType,
    /// In bytes.
    offset: usize,
    /// In elements.
    len: usize,
}

#[derive(Debug)]
struct Allocation {
    gpu: Gpu,
    address: u64,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.gpu.release(self.address);
    }
}

impl Buffer {
    pub(super) fn allocate(gpu: &Gpu, dtype: DType, len: usize) -> Result<Self> {
        // An empty buffer has an address of its own too.
        let address = gpu.allocate(len * dtype.size())?;
        let allocation = Arc::new(Allocation { gpu: gpu.clone(), address });
        Ok(Self { allocation, dtype, offset: 0, len })
    }

    pub fn gpu(&self) -> &Gpu {
        &self.allocation.gpu
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// In elements.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn byte_len(&self) -> usize {
        self.len * self.dtype.size()
    }

    /// `len` elements from `offset` on, as launches take them.
    pub(crate) fn span_of(&self, offset: usize, len: usize) -> Span<'_> {
        assert!(offset + len <= self.len, "a span leaves its buffer");
        let size = self.dtype.size();
        let address = self.address() + (offset * size) as u64;
        Span { gpu: self.gpu(), address, bytes: len * size, dtype: self.dtype }
    }

    pub(super) fn address(&self) -> u64 {
        self.allocation.address + self.offset as u64
    }

    /// `len` elements from `offset` on.
    ///
    /// # Panics
    /// If the range leaves the buffer.
    pub fn view(&self, offset: usize, len: usize) -> Self {
        assert!(offset + len <= self.len, "a view leaves its buffer");
        Self { offset: self.offset + offset * self.dtype.size(), len, ..self.clone() }
    }

    /// `len` elements of `dtype` from byte `offset` on.
    ///
    /// # Panics
    /// If the range leaves the buffer, or does not begin at a multiple of the element's size.
    pub fn part(&self, offset: usize, dtype: DType, len: usize) -> Self {
        assert!(offset + len * dtype.size() <= self.byte_len(), "a part leaves its buffer");
        let offset = self.offset + offset;
        assert!(offset.is_multiple_of(dtype.size()), "a part of {} is not aligned", dtype.name());
        Self { allocation: self.allocation.clone(), dtype, offset, len }
    }

    /// Sets every element to zero, after everything that was launched before.
    ///
    /// # Errors
    /// What the device says.
    pub fn clear(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.gpu().queue(Command::Clear { to: self.address(), bytes: self.byte_len() })
    }

    /// Copies the elements of another buffer of the device, after everything that was launched before.
    ///
    /// # Errors
    /// [`Error::Shape`] where `from` has another length or type; what the device says.
    pub fn copy_from(&self, from: &Buffer) -> Result<()> {
        if (from.dtype, from.len) != (self.dtype, self.len) {
            let message = format!("{} elements of {} into {}", from.len, from.dtype.name(), self.len);
            return Err(Error::shape("copy", message));
        }
        self.gpu().queue(Command::Copy { from: from.address(), to: self.address(), bytes: self.byte_len() })
    }

    /// Queues a copy of `data` into the first bytes, behind everything that was launched before.
    ///
    /// # Errors
    /// What the device says.
    ///
    /// # Panics
    /// If there are more than the buffer has.
    pub fn stage(&self, data: &[u8]) -> Result<()> {
        assert!(data.len() <= self.byte_len(), "more than the buffer holds");
        self.gpu().not_recording("copies from the host")?;
        self.gpu().0.backend.stage(data, self.address())
    }

    /// The elements, after everything that was launched before.
    ///
    /// # Errors
    /// What the device says, also of work that was launched before.
    ///
    /// # Panics
    /// If `T` is not the stored type.
    pub fn download<T: Element>(&self) -> Result<Vec<T>> {
        assert_eq!(T::DTYPE, self.dtype, "the buffer stores another type");
        self.gpu().not_recording("is read by the host")?;
        let mut data = vec![T::default(); self.len];
        if !data.is_empty() {
            self.gpu().0.backend.download(self.address(), bytemuck::cast_slice_mut(&mut data))?;
        }
        Ok(data)
    }
}
