//! [`Tensor`]: contiguous, row-major data with a shape, a dtype and a device. Feature maps are NHWC `[n, h, w, c]`
//! everywhere, so that `[n, h*w, c]` tokens are the same bytes.

mod in_place;
mod place;
mod pointwise;
mod storage;
mod upload;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use half::{bf16, f16};
use rayon::prelude::*;

pub use crate::device::cpu::pool::{buffer, recycle, release_pool};
pub use crate::dtype::{DType, Element, Real};
pub use crate::random;
pub(crate) use place::device_of;
pub(crate) use pointwise::{float, map, same, zip};
pub use upload::Upload;

use crate::error::{Error, Result};
use storage::Storage;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An immutable, cheaply cloned view of contiguous data. A clone is the same tensor (same [`Tensor::id`], which is how
/// the tape knows it); a reshape or a slice is another one that shares the bytes.
#[derive(Clone)]
pub struct Tensor {
    id: u64,
    shape: Arc<[usize]>,
    offset: usize,
    storage: Arc<Storage>,
}

impl Tensor {
    /// Wraps `data` as a tensor of `shape`.
    ///
    /// # Panics
    /// If the lengths do not match: sizes from outside are checked before they come here.
    pub fn new<T: Element>(data: Vec<T>, shape: &[usize]) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "data does not fill shape {shape:?}");
        Self::over(Arc::new(Storage::new(data)), 0, shape)
    }

    fn over(storage: Arc<Storage>, offset: usize, shape: &[usize]) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { id, shape: shape.into(), offset, storage }
    }

    /// Stores computed values in `dtype`, rounding once: the last line of every CPU op.
    pub fn from_reals<T: Real>(data: Vec<T>, shape: &[usize], dtype: DType) -> Self {
        if T::DTYPE == dtype {
            return Self::new(data, shape);
        }
        let rounded = match dtype {
            DType::F32 => Self::new(convert(&data, |x: T| x.to_f64() as f32), shape),
            DType::F64 => Self::new(convert(&data, |x: T| x.to_f64()), shape),
            DType::Bf16 => Self::new(convert(&data, |x: T| bf16::from_f64(x.to_f64())), shape),
            DType::F16 => Self::new(convert(&data, |x: T| f16::from_f64(x.to_f64())), shape),
            DType::I64 => panic!("floats are never stored as i64"),
        };
        recycle(data);
        rounded
    }

    pub fn zeros(shape: &[usize], dtype: DType) -> Self {
        Self::full(shape, 0.0, dtype)
    }

    pub fn full(shape: &[usize], value: f64, dtype: DType) -> Self {
        let len = shape.iter().product();
        crate::dispatch!(dtype, T => Self::from_reals(vec![T::from_f64(value); len], shape, dtype))
    }

    /// Identifies the value on a tape.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The shape as an array, for ops that know how many dimensions they take.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the op where there are not N.
    pub fn dims<const N: usize>(&self, op: &'static str) -> Result<[usize; N]> {
        self.shape()
            .try_into()
            .map_err(|_| Error::shape(op, format!("expected {N} dimensions, got a tensor of shape {:?}", self.shape())))
    }

    /// All leading dimensions as one, and the last: `[.., c]` as `[rows, c]`.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the op for a scalar.
    pub fn rows(&self, op: &'static str) -> Result<(usize, usize)> {
        match self.shape().split_last() {
            Some((&c, rows)) => Ok((rows.iter().product(), c)),
            None => Err(Error::shape(op, "expected at least one dimension, got a scalar")),
        }
    }

    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype().size()
    }

    /// The stored bytes, little-endian.
    ///
    /// # Panics
    /// If they are on a GPU, here and in everything below that gives values: see [`Tensor::to_cpu`].
    pub fn bytes(&self) -> &[u8] {
        let size = self.dtype().size();
        &self.storage.bytes()[self.offset * size..][..self.byte_len()]
    }

    /// The elements where `T` is the stored type.
    ///
    /// # Panics
    /// If it is not; a caller that cannot know takes [`Tensor::reals`].
    pub fn data<T: Element>(&self) -> &[T] {
        match self.storage.slice() {
            Some(all) => &all[self.offset..][..self.len()],
            None => panic!("the tensor stores {}, not {}", self.dtype().name(), T::DTYPE.name()),
        }
    }

    /// The values in the type that the CPU computes in; borrowed where that is the stored type.
    pub fn reals<T: Real>(&self) -> Cow<'_, [T]> {
        match self.dtype() {
            dtype if dtype == T::DTYPE => Cow::Borrowed(self.data()),
            DType::F32 => Cow::Owned(convert(self.data(), |x: f32| T::from_f64(x.into()))),
            DType::F64 => Cow::Owned(convert(self.data(), T::from_f64)),
            DType::Bf16 => Cow::Owned(convert(self.data(), |x: bf16| T::from_f64(x.to_f64()))),
            DType::F16 => Cow::Owned(convert(self.data(), |x: f16| T::from_f64(x.to_f64()))),
            DType::I64 => Cow::Owned(convert(self.data(), |x: i64| T::from_f64(x as f64))),
        }
    }

    /// The vector behind this tensor, if that holds nothing else and nobody else holds it; for in-place updates.
    ///
    /// # Errors
    /// The tensor itself.
    pub fn try_into_vec<T: Real>(mut self) -> std::result::Result<Vec<T>, Self> {
        let whole = self.offset == 0 && self.storage.on_host() && self.storage.bytes().len() == self.byte_len();
        match Arc::get_mut(&mut self.storage).filter(|_| whole).and_then(Storage::take) {
            Some(data) => Ok(data),
            None => Err(self),
        }
    }

    /// The same values in another type, rounded to nearest even; the tensor itself where nothing changes. On the CPU
    /// only, unless nothing changes: `ops::cast` is for any device.
    pub fn cast(&self, dtype: DType) -> Self {
        if dtype == self.dtype() {
            return self.clone();
        }
        match self.dtype() {
            DType::F64 => Self::from_reals(self.data::<f64>().to_vec(), self.shape(), dtype),
            _ => Self::from_reals(self.reals::<f32>().into_owned(), self.shape(), dtype),
        }
    }

    /// Whether no value is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        // The largest magnitude of a block decides: a loop without a branch is vectorised.
        macro_rules! finite {
            ($t:ty, $bits:ty) => {{
                const BLOCK: usize = 1 << 12;
                let infinity = <$t>::INFINITY.to_bits() as $bits;
                let magnitude = |x: &$t| x.to_bits() as $bits & <$bits>::MAX;
                let finite = |block: &[$t]| block.iter().fold(0, |m: $bits, x| m.max(magnitude(x))) < infinity;
                self.data::<$t>().par_chunks(BLOCK).all(finite)
            }};
        }
        match self.dtype() {
            DType::F32 => finite!(f32, i32),
            DType::F64 => finite!(f64, i64),
            DType::Bf16 => finite!(bf16, i16),
            DType::F16 => finite!(f16, i16),
            DType::I64 => true,
        }
    }

    /// The one value of a scalar or one-element tensor.
    pub fn item(&self) -> f64 {
        assert_eq!(self.len(), 1, "item() of a tensor of shape {:?}", self.shape());
        self.reals::<f64>()[0]
    }

    /// The same bytes under another shape, as a new tensor that no tape knows. Ops use `ops::reshape`, which records.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn with_shape(&self, shape: &[usize]) -> Self {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "{:?} as {shape:?}", self.shape());
        Self::over(self.storage.clone(), self.offset, shape)
    }

    /// `shape` elements from `offset` on, sharing the bytes: how the tensors of a flat buffer are seen one by one, and
    /// how a batch is cut.
    ///
    /// # Panics
    /// If the range leaves the tensor.
    pub fn view(&self, offset: usize, shape: &[usize]) -> Self {
        assert!(offset + shape.iter().product::<usize>() <= self.len(), "a view leaves its tensor");
        Self::over(self.storage.clone(), self.offset + offset, shape)
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?} #{})", self.dtype().name(), self.shape(), self.id)
    }
}

fn convert<A: Element, B: Element>(from: &[A], f: impl Fn(A) -> B + Sync) -> Vec<B> {
    const CHUNK: usize = 1 << 14;
    let mut to = buffer(from.len());
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        for (t, &x) in to.iter_mut().zip(from) {
            *t = f(x);
        }
    });
    to
}
