//! GPUs: the kernels of `kernels/*.cu`, launched through one interface whoever executes them. [`Gpu::simulator`] runs
//! them on the host, for tests and for work on kernels; [`Gpu::cuda`] is an NVIDIA GPU.
//!
//! In order: [`Gpu`] and its [`Buffer`]s, the launch builder, the table of kernels that `build.rs` generates, the two
//! ways to execute; then a file for each kernel file, with its launches.

mod argument;
pub mod attention;
mod buffer;
pub mod conv2d;
#[cfg(feature = "cuda")]
mod cuda;
pub mod elementwise;
pub mod embedding;
pub mod group_norm;
mod kind;
mod launch;
pub mod layer_norm;
pub mod loss;
pub mod matmul;
pub mod noise;
pub mod optimizer;
#[cfg(feature = "cuda")]
mod pool;
pub mod recorder;
mod simulator;
pub mod sums;
pub mod table;
mod tile;

use std::sync::Arc;

pub use buffer::Buffer;
pub use simulator::{Checks, Order};

use crate::error::Result;
use crate::tensor::{DType, Tensor};
use argument::Launch;
use launch::Builder;
use recorder::{Launched, Recorder};
use table::Kernel;

#[cfg(all(test, feature = "simulator"))]
mod tests;

/// A device that runs kernels. Clones are the same device; its memory lives as long as the last buffer.
#[derive(Clone)]
pub struct Gpu(Arc<dyn Backend>);

/// What a way to execute kernels must offer. Addresses are the device's own.
trait Backend: Send + Sync {
    fn name(&self) -> String;

    /// Whether the host runs the kernels.
    fn is_simulated(&self) -> bool;

    /// `bytes` of new memory at a multiple of 256.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives back what [`Backend::allocate`] returned.
    fn free(&self, address: u64);

    /// # Panics
    /// If the bytes are not all inside one allocation, here and in [`Backend::download`].
    fn upload(&self, data: &[u8], to: u64) -> Result<()>;

    /// Sets bytes inside one allocation to zero.
    fn clear(&self, to: u64, bytes: usize) -> Result<()>;

    /// Waits for what was launched before.
    fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// Queues a launch that the builder has checked.
    fn launch(&self, launch: &Launch<'_>) -> Result<()>;
}

impl Gpu {
    /// The simulator.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where the build or the processor lacks what it needs.
    pub fn simulator(checks: Checks, order: Order) -> Result<Self> {
        Ok(Self(Arc::new(simulator::Simulator::open(checks, order)?)))
    }

    /// NVIDIA GPU number `ordinal`.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where the build, the driver or the device lack what it needs.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Self(Arc::new(cuda::Cuda::open(ordinal)?)))
    }

    /// This build is without the feature `cuda`, and says so.
    #[cfg(not(feature = "cuda"))]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        let why = "this build of selma is without the feature `cuda`";
        Err(crate::Error::Usage(format!("--device cuda: number {ordinal}: {why}")))
    }

    pub fn name(&self) -> String {
        self.0.name()
    }

    /// The same device under another identity, which remembers the kernels that it runs.
    pub fn recorded(&self) -> (Self, Launched) {
        let launched = Launched::default();
        let recorder = Recorder {
            inner: self.clone(),
            launched: launched.clone(),
        };
        (Self(Arc::new(recorder)), launched)
    }

    /// Whether the host runs the kernels.
    pub fn is_simulated(&self) -> bool {
        self.0.is_simulated()
    }

    /// Room for `len` elements, with unspecified values.
    pub fn buffer(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Buffer::allocate(self, dtype, len)
    }

    /// The elements of a tensor, in its dtype.
    pub fn upload(&self, tensor: &Tensor) -> Result<Buffer> {
        let buffer = self.buffer(tensor.dtype(), tensor.len())?;
        if !tensor.is_empty() {
            self.0.upload(tensor.bytes(), buffer.address())?;
        }
        Ok(buffer)
    }

    /// Begins the launch of `kernel` as compiled for storage type `scalar`.
    pub(crate) fn kernel(&self, kernel: &'static Kernel, scalar: DType) -> Builder<'_> {
        Builder::new(self, kernel, scalar)
    }
}

/// The same device, not an equal one.
impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gpu {}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.name())
    }
}
