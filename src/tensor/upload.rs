//! Tensors of the host whose way to a device is repeated.

use super::Tensor;
use crate::device::Device;
use crate::device::gpu::{Buffer, Gpu};
use crate::dtype::DType;
use crate::error::Result;

/// Tensors begin at multiples of this in the memory that they share.
const ALIGNMENT: usize = 256;

/// Memory of a device that tensors of the same sizes are copied to again and again: a replay finds them where they were.
#[derive(Default)]
pub struct Upload {
    memory: Option<Buffer>,
    bytes: Vec<u8>,
    sizes: Vec<(DType, Vec<usize>)>,
}

impl Upload {
    /// Puts tensors of `device` in the place of those of the host, behind everything that was launched before. True where
    /// there were other sizes before.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn run(&mut self, device: &Device, tensors: &mut [&mut Tensor]) -> Result<bool> {
        let Device::Gpu(gpu) = device else { return Ok(false) };
        let sizes: Vec<_> = tensors.iter().map(|tensor| (tensor.dtype(), tensor.shape().to_vec())).collect();
        let others = sizes != self.sizes;
        self.sizes = sizes;
        self.copy(gpu, tensors)?;
        Ok(others)
    }

    /// All of them in one piece.
    fn copy(&mut self, gpu: &Gpu, tensors: &mut [&mut Tensor]) -> Result<()> {
        self.bytes.clear();
        let mut offsets = Vec::new();
        for tensor in &*tensors {
            let offset = self.bytes.len().next_multiple_of(ALIGNMENT);
            self.bytes.resize(offset, 0);
            self.bytes.extend_from_slice(tensor.bytes());
            offsets.push(offset);
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let memory = match self.memory.take().filter(|memory| memory.byte_len() == self.bytes.len()) {
            Some(memory) => memory,
            None => gpu.buffer(DType::F32, self.bytes.len() / DType::F32.size())?,
        };
        memory.stage(&self.bytes)?;
        for (tensor, offset) in tensors.iter_mut().zip(offsets) {
            let part = memory.part(offset, tensor.dtype(), tensor.len());
            **tensor = Tensor::on_gpu(part, tensor.shape());
        }
        self.memory = Some(memory);
        Ok(())
    }
}
