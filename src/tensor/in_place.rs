//! Changes in place: for what training keeps from step to step. Afterwards no tape knows the tensor.

use std::sync::Arc;

use half::{bf16, f16};

use super::Tensor;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};

impl Tensor {
    /// A new tensor of zeros on the device of this one.
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub(crate) fn new_zeros(&self, shape: &[usize], dtype: DType) -> Result<Self> {
        if self.memory().is_none() {
            return Ok(Self::zeros(shape, dtype));
        }
        let mut zeros = self.new_empty(shape, dtype)?;
        zeros.clear()?;
        Ok(zeros)
    }

    /// The elements on the CPU, for writing: a copy where somebody else holds them.
    ///
    /// # Panics
    /// If `T` is not the stored type, or they are on a GPU.
    pub(crate) fn data_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(T::DTYPE, self.dtype(), "the tensor stores another type");
        bytemuck::cast_slice_mut(self.bytes_mut())
    }

    /// Sets every element to 0; on a GPU after everything that was launched before.
    ///
    /// # Errors
    /// What a GPU says.
    pub(crate) fn clear(&mut self) -> Result<()> {
        match self.memory() {
            Some(memory) => memory.clear(),
            None => {
                self.bytes_mut().fill(0);
                Ok(())
            }
        }
    }

    /// Puts the values of `from`, which is on the same device, in the place of those from number `at` on. On a GPU both have
    /// the same dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] where dtypes differ on a GPU; what a GPU says.
    ///
    /// # Panics
    /// If they leave this tensor.
    pub(crate) fn write(&mut self, at: usize, from: &Self) -> Result<()> {
        if let Some(memory) = self.memory() {
            from.gpu()?;
            let from = from.memory().expect("on a GPU");
            return memory.view(at, from.len()).copy_from(&from);
        }
        let (from, size) = (from.cast(self.dtype()), self.dtype().size());
        self.bytes_mut()[at * size..][..from.byte_len()].copy_from_slice(from.bytes());
        Ok(())
    }

    /// Takes the values of `from`, which is on the CPU and of this shape and dtype; on a GPU behind everything that was
    /// launched before.
    ///
    /// # Errors
    /// [`Error::Shape`] where it is of another; what a GPU says.
    pub(crate) fn stage(&mut self, from: &Self) -> Result<()> {
        if (from.shape(), from.dtype()) != (self.shape(), self.dtype()) {
            return Err(Error::shape("stage", format!("{from:?} for {self:?}")));
        }
        match self.memory() {
            Some(memory) => memory.stage(from.bytes()),
            None => {
                *self = from.clone();
                Ok(())
            }
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // A new identity, and the bytes for itself.
        *self = match Arc::strong_count(&self.storage) {
            1 => Self::over(self.storage.clone(), self.offset, &self.shape),
            _ => self.copied(),
        };
        let size = self.dtype().size();
        let (start, len) = (self.offset * size, self.byte_len());
        let storage = Arc::get_mut(&mut self.storage).expect("nobody else holds it");
        &mut storage.bytes_mut()[start..][..len]
    }

    fn copied(&self) -> Self {
        match self.dtype() {
            DType::F32 => Self::new(self.data::<f32>().to_vec(), self.shape()),
            DType::Bf16 => Self::new(self.data::<bf16>().to_vec(), self.shape()),
            DType::F16 => Self::new(self.data::<f16>().to_vec(), self.shape()),
            DType::F64 => Self::new(self.data::<f64>().to_vec(), self.shape()),
            DType::I64 => Self::new(self.data::<i64>().to_vec(), self.shape()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_do_not_reach_those_who_share_the_elements() {
        let mut x = Tensor::new(vec![1.0_f32, 2.0, 3.0, 4.0], &[4]);
        let (kept, id) = (x.clone(), x.id());
        x.view(1, &[2]).data_mut::<f32>()[0] = 9.0;
        assert_eq!(x.data::<f32>(), [1.0, 2.0, 3.0, 4.0]);
        x.data_mut::<f32>()[0] = 5.0;
        assert_eq!((x.data::<f32>()[0], kept.data::<f32>()[0]), (5.0, 1.0));
        assert_ne!(x.id(), id);
        let mut part = kept.view(2, &[2]);
        drop(kept);
        part.write(1, &Tensor::new(vec![7.0_f64], &[1])).unwrap();
        assert_eq!(part.data::<f32>(), [3.0, 7.0]);
        part.clear().unwrap();
        assert_eq!(part.data::<f32>(), [0.0, 0.0]);
        part.stage(&x.view(0, &[2])).unwrap();
        assert_eq!(part.data::<f32>(), [5.0, 2.0]);
        assert!(part.stage(&x).is_err());
    }
}
