//! cuBLASLt and cuDNN, loaded when first asked for: the binary needs neither.

mod cublaslt;
mod cudnn;

use std::cell::OnceCell;
use std::fmt::Display;
use std::sync::Arc;

use super::Queue;
use crate::device::gpu::Buffer;
use crate::device::gpu::library::{Call, Libraries, Work};
use crate::dtype::DType;
use crate::error::{Error, Result};
use cublaslt::CublasLt;
use cudnn::Cudnn;

/// What a call may use besides its operands.
const WORKSPACE_BYTES: usize = 512 << 20;

pub struct Loaded {
    queue: Arc<Queue>,
    cublaslt: OnceCell<Result<CublasLt, String>>,
    cudnn: OnceCell<Result<Cudnn, String>>,
}

impl Loaded {
    pub fn new(queue: &Arc<Queue>) -> Self {
        Self { queue: queue.clone(), cublaslt: OnceCell::new(), cudnn: OnceCell::new() }
    }
}

impl Libraries for Loaded {
    fn prepare<'a>(&'a self, work: &Work, operands: [&Buffer; 3]) -> Result<Box<dyn Call + 'a>> {
        // What the libraries find current is what they work with.
        self.queue.call("preparing a library", || Ok(()))?;
        let failed = |why: &String| Error::Failed(why.clone());
        match work {
            Work::Product(product) => {
                let library = self.cublaslt.get_or_init(|| CublasLt::open(&self.queue));
                Ok(Box::new(library.as_ref().map_err(failed)?.prepare(product, operands)?))
            }
            Work::Convolution(conv, pass) => {
                let library = self.cudnn.get_or_init(|| Cudnn::open(&self.queue));
                let library = library.as_ref().map_err(failed)?;
                Ok(Box::new(library.prepare(conv, *pass, operands)?))
            }
        }
    }
}

/// A library's handle, which is given back in the end.
struct Owned<T: Copy, E> {
    handle: T,
    destroy: unsafe fn(T) -> Result<(), E>,
}

impl<T: Copy, E> Owned<T, E> {
    /// # Safety
    /// `destroy` may be called once on `handle`, and nobody else does.
    unsafe fn new(handle: T, destroy: unsafe fn(T) -> Result<(), E>) -> Self {
        Self { handle, destroy }
    }
}

impl<T: Copy, E> Drop for Owned<T, E> {
    fn drop(&mut self) {
        // SAFETY: as promised to `new`. A failure here is one of an earlier call, and nobody is left to be told.
        let _ = unsafe { (self.destroy)(self.handle) };
    }
}

/// What a library said, and who it was.
fn said(library: &str, what: &str) -> impl Fn(&dyn Display) -> Error {
    let start = format!("{library}: {what}: the library says ");
    move |e| Error::Failed(format!("{start}{e}"))
}

/// That a library is nowhere. cudarc looks for these names.
fn missing(library: &str, file: &str) -> String {
    format!("{library} was not found ({file}.so; LD_LIBRARY_PATH names the folders that are searched)")
}

/// Memory that calls work in.
fn workspace(like: &Buffer, bytes: usize) -> Result<Option<Buffer>> {
    let len = bytes.div_ceil(DType::F32.size());
    (len > 0).then(|| like.gpu().buffer(DType::F32, len)).transpose()
}

#[cfg(all(test, feature = "simulator"))]
mod tests;
