//! The safetensors container. The crate reads and checks headers and offsets; this adds the file's name to errors,
//! and turns views into tensors.

mod faults;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{Dtype, TensorInfo};

use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};

use faults::{describe, duplicate_key, not_safetensors};
pub use write::{emit, write};

/// A memory-mapped file of named tensors.
pub struct Safetensors {
    path: PathBuf,
    map: Mmap,
    /// Where the data begins, after the length word and the header.
    start: usize,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl Safetensors {
    /// Maps `path` and checks its header: length, JSON, offsets inside the file and without gaps or overlaps.
    ///
    /// # Errors
    /// [`Error::File`] naming the file and what is wrong with it; a pickle checkpoint is told apart, with the way out.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::file(path, "is a folder; expected a safetensors file"));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        // SAFETY: the map is only read. As everywhere that weights are mapped, a process that rewrites the file in place
        // meanwhile can change what is read; our own writers replace files by renaming.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        if let Some(reason) = not_safetensors(&map) {
            return Err(Error::file(path, reason));
        }
        let (header, info) =
            safetensors::SafeTensors::read_metadata(&map).map_err(|e| Error::file(path, describe(&e, &map)))?;
        if let Some(name) = duplicate_key(&map[8..8 + header]) {
            return Err(Error::file(path, format!("two tensors are named {name}")));
        }
        let tensors = info.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let metadata = info.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { path: path.into(), map, start: 8 + header, tensors, metadata })
    }

    /// A file without tensors, which need not exist: whatever is asked of it is an error that names `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where the system gives no page of memory.
    pub fn empty(path: &Path) -> Result<Self> {
        let map = memmap2::MmapMut::map_anon(1).and_then(memmap2::MmapMut::make_read_only);
        let map = map.map_err(|e| Error::io(path, e))?;
        Ok(Self { path: path.into(), map, start: 0, tensors: BTreeMap::new(), metadata: BTreeMap::new() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names in sorted order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of one tensor, without touching its data.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| info.shape.as_slice())
    }

    /// The type that one tensor is stored in, such as `F16`; empty where there is no such tensor.
    pub fn type_name(&self, name: &str) -> String {
        self.tensors.get(name).map_or(String::new(), |info| info.dtype.to_string())
    }

    /// The strings of the header's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Copies one tensor out. Floats keep their type, but 8-bit floats become f16, which has all of their values; integers are
    /// widened to i64.
    ///
    /// # Errors
    /// [`Error::File`] for a name that is not there, or a type that weights are not stored in.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.tensors.get(name).ok_or_else(|| Error::file(&self.path, format!("no tensor named {name}")))?;
        let (begin, end) = (self.start + info.data_offsets.0, self.start + info.data_offsets.1);
        let bytes = &self.map[begin..end];
        let shape = info.shape.as_slice();
        let tensor = match info.dtype {
            Dtype::F32 => Tensor::new(read::<f32>(bytes), shape),
            Dtype::F64 => Tensor::new(read::<f64>(bytes), shape),
            Dtype::F16 => Tensor::new(read::<f16>(bytes), shape),
            Dtype::BF16 => Tensor::new(read::<bf16>(bytes), shape),
            Dtype::F8_E4M3 => Tensor::new(bytes.iter().map(|&byte| from_e4m3(byte)).collect::<Vec<f16>>(), shape),
            // The upper half of an f16.
            Dtype::F8_E5M2 => {
                let values = bytes.iter().map(|&byte| f16::from_bits(u16::from(byte) << 8));
                Tensor::new(values.collect::<Vec<f16>>(), shape)
            }
            Dtype::I64 => Tensor::new(read::<i64>(bytes), shape),
            Dtype::I32 => Tensor::new(widen(&bytemuck::pod_collect_to_vec::<u8, i32>(bytes)), shape),
            Dtype::U8 => Tensor::new(widen(bytes), shape),
            other => {
                let message = format!(
                    "tensor {name} is stored as {other}; expected F32, F16, BF16, F64, F8_E4M3, F8_E5M2 or an integer"
                );
                return Err(Error::file(&self.path, message));
            }
        };
        self.forget(begin, end);
        Ok(tensor)
    }

    /// As [`Safetensors::tensor`], for weights: floats, none of which is NaN or infinite.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor, also as for [`Safetensors::tensor`].
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        let tensor = self.tensor(name)?;
        if !tensor.dtype().is_float() {
            let message = format!("tensor {name} holds integers; expected floats");
            return Err(Error::file(&self.path, message));
        }
        if !tensor.is_finite() {
            let message = format!("tensor {name} holds NaN or infinity: the file is damaged, or its training diverged");
            return Err(Error::file(&self.path, message));
        }
        Ok(tensor)
    }

    /// Drops the mapped pages of a range that has been copied, so that a large file is not counted twice.
    fn forget(&self, begin: usize, end: usize) {
        const PAGE: usize = 4096;
        let (first, last) = (begin.next_multiple_of(PAGE), end / PAGE * PAGE);
        if last > first {
            // SAFETY: the map is a file's and never written, so dropped pages come back from the file with equal bytes.
            // It is a hint: where it fails, memory use is higher and nothing else changes.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) };
        }
    }
}

fn read<T: Element>(bytes: &[u8]) -> Vec<T> {
    let mut data = crate::tensor::buffer::<T>(bytes.len() / size_of::<T>());
    bytemuck::cast_slice_mut::<T, u8>(&mut data).copy_from_slice(bytes);
    data
}

/// A value of 4 bits of exponent and 3 of mantissa, without infinities (Micikevicius et al. 2022, arXiv:2209.05433).
fn from_e4m3(byte: u8) -> f16 {
    let (sign, rest) = (u16::from(byte & 0x80) << 8, byte & 0x7f);
    let magnitude = match (rest >> 3, rest & 7) {
        (15, 7) => f16::NAN,
        // In steps of 2^-9.
        (0, mantissa) => f16::from_f32(f32::from(mantissa) / 512.0),
        (exponent, mantissa) => f16::from_bits((u16::from(exponent) + 8) << 10 | u16::from(mantissa) << 7),
    };
    f16::from_bits(sign | magnitude.to_bits())
}

fn widen<T: Copy + Into<i64>>(values: &[T]) -> Vec<i64> {
    values.iter().map(|&v| v.into()).collect()
}
