//! GPUs: the kernels of `kernels/*.cu`, launched through one interface whoever executes them. [`Gpu::simulator`] runs
//! them on the host, for tests and for work on kernels; [`Gpu::cuda`] is an NVIDIA GPU.
//!
//! In order: [`Gpu`] and its [`Buffer`]s, the launch builder, work that is recorded and replayed, the table of kernels that
//! `build.rs` generates, the two ways to execute; then a file for each kernel file, with its launches.

mod arena;
mod argument;
mod buffer;
pub mod choice;
#[cfg(feature = "cuda")]
mod cuda;
pub mod dry_run;
mod forwarded;
pub mod graph;
pub mod guarded;
pub mod identity;
mod kind;
mod launch;
pub mod library;
mod memory;
#[cfg(feature = "simulator")]
mod planted;
pub mod recorder;
mod simulator;
pub mod table;
pub mod tensor_map;
mod tile;

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use arena::Usage;
pub use buffer::Buffer;
#[cfg(feature = "cuda")]
pub use cuda::{Card, cards};
pub(crate) use launch::{Launcher, Operand, Span, pack};
pub use simulator::{Checks, Order, Touched, trace};
pub(crate) use tile::{ENOUGH_BLOCKS, Tile, in_chunks};

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use arena::Arena;
use choice::Chooser;
use graph::Command;
use identity::Identity;
use recorder::{Launched, Recorder};
use table::Kernel;

#[cfg(all(test, feature = "simulator"))]
mod tests;
#[cfg(all(test, feature = "simulator"))]
mod tests_hopper;

/// A device that runs kernels. Clones are the same device; its memory lives as long as the last buffer.
#[derive(Clone)]
pub struct Gpu(Arc<Shared>);

struct Shared {
    backend: Box<dyn Backend>,
    arena: Mutex<Arena>,
    /// Work that is being recorded instead of done.
    recording: Mutex<Option<Vec<Command>>>,
    /// Who decides between kernels, if not the cost model.
    chooser: RwLock<Option<Arc<dyn Chooser>>>,
    /// Bytes that are left free on both sides of a buffer, whose memory is then not handed on.
    gap: u64,
}

/// What a way to execute kernels must offer. Addresses are the device's own. Whatever is queued runs in the order of the
/// calls.
trait Backend: Send + Sync {
    fn name(&self) -> String;

    /// What results of measurements hold for.
    fn identity(&self) -> Identity {
        Identity::of_simulator(self.name())
    }

    /// Whether the host runs the kernels.
    fn is_simulated(&self) -> bool;

    /// Whether it runs the kernels that are for compute capability 9.0 alone.
    fn runs_hopper(&self) -> bool {
        false
    }

    /// `bytes` of new memory at a multiple of 256; none where the device has no room for them.
    fn allocate(&self, bytes: usize) -> Result<Option<u64>>;

    /// Gives back what [`Backend::allocate`] returned.
    fn free(&self, address: u64);

    /// Bytes inside one allocation belong to a new buffer, whose values are unspecified, as are those up to a multiple of 256.
    fn renew(&self, _address: u64, _bytes: usize) {}

    /// Bytes that are free, and bytes in all; none where nobody knows.
    fn room(&self) -> Result<Option<[u64; 2]>>;

    /// # Panics
    /// If the bytes are not all inside one allocation, here and below.
    fn upload(&self, data: &[u8], to: u64) -> Result<()>;

    /// Queues a copy of `data`, which may be changed when this returns.
    fn stage(&self, data: &[u8], to: u64) -> Result<()>;

    /// Waits for what was queued before.
    fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// Queues a launch that the builder has checked, a copy, or zeros.
    fn queue(&self, command: &Command) -> Result<()>;

    /// Makes one piece of what [`Backend::replay`] will queue; none where it is best queued command by command.
    fn capture(&self, _commands: &[Command]) -> Result<Option<Box<dyn Any + Send + Sync>>> {
        Ok(None)
    }

    /// Queues what [`Backend::capture`] has made.
    fn replay(&self, _captured: &(dyn Any + Send + Sync)) -> Result<()> {
        Ok(())
    }

    /// NVIDIA's libraries, where they work on this device.
    fn libraries(&self) -> Option<Box<dyn library::Libraries>> {
        None
    }

    /// Seconds that the device takes for what `work` queues.
    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
}

impl Gpu {
    fn over(backend: impl Backend + 'static) -> Self {
        Self::with_gap(backend, 0)
    }

    fn with_gap(backend: impl Backend + 'static, gap: u64) -> Self {
        Self(Arc::new(Shared {
            backend: Box::new(backend),
            arena: Mutex::default(),
            recording: Mutex::default(),
            chooser: RwLock::default(),
            gap,
        }))
    }

    /// A device that was asked for: with the fault that a test plants in a build for tests.
    fn opened(backend: impl Backend + 'static) -> Self {
        let gpu = Self::over(backend);
        #[cfg(feature = "simulator")]
        let gpu = planted::Planted::around(gpu);
        gpu
    }

    /// The simulator.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where the build or the processor lacks what it needs.
    pub fn simulator(checks: Checks, order: Order) -> Result<Self> {
        Ok(Self::opened(simulator::Simulator::open(checks, order)?))
    }

    /// NVIDIA GPU number `ordinal`.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where the build, the driver or the device lack what it needs.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Self::opened(cuda::Cuda::open(ordinal)?))
    }

    /// This build is without the feature `cuda`, and says so.
    ///
    /// # Errors
    /// [`crate::Error::Usage`], always.
    #[cfg(not(feature = "cuda"))]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        let why = "this build of selma is without the feature `cuda`";
        Err(crate::Error::Usage(format!("--device cuda: number {ordinal}: {why}")))
    }

    /// Whether NVIDIA's driver can be loaded.
    #[cfg(feature = "cuda")]
    pub fn has_driver() -> bool {
        cuda::has_driver()
    }

    /// Never in a build without the feature `cuda`.
    #[cfg(not(feature = "cuda"))]
    pub fn has_driver() -> bool {
        false
    }

    pub fn name(&self) -> String {
        self.0.backend.name()
    }

    /// What results of measurements hold for.
    pub fn identity(&self) -> Identity {
        self.0.backend.identity()
    }

    /// The same device under another identity, which remembers the kernels that it runs.
    pub fn recorded(&self) -> (Self, Launched) {
        let launched = Launched::default();
        let recorder = Recorder { inner: self.clone(), launched: launched.clone() };
        (Self::over(recorder), launched)
    }

    /// Whether the host runs the kernels.
    pub fn is_simulated(&self) -> bool {
        self.0.backend.is_simulated()
    }

    /// Whether it runs the kernels that are for compute capability 9.0 alone: such a GPU, or the simulator.
    pub fn runs_hopper(&self) -> bool {
        self.0.backend.runs_hopper()
    }

    /// Room for `len` elements, with unspecified values.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the device has no room.
    pub fn buffer(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Buffer::allocate(self, dtype, len)
    }

    /// A copy of these elements.
    ///
    /// # Errors
    /// Where the device has no room, or says something else.
    pub fn upload<T: Element>(&self, data: &[T]) -> Result<Buffer> {
        self.upload_bytes(bytemuck::cast_slice(data), T::DTYPE)
    }

    /// [`Gpu::upload`] of elements of `dtype` as they are stored.
    ///
    /// # Errors
    /// As there.
    pub fn upload_bytes(&self, data: &[u8], dtype: DType) -> Result<Buffer> {
        let buffer = self.buffer(dtype, data.len() / dtype.size())?;
        if !data.is_empty() {
            self.not_recording("copies from the host")?;
            self.0.backend.upload(data, buffer.address())?;
        }
        Ok(buffer)
    }

    /// Seconds that the device takes for what `work` launches, by its own clock where it has one.
    ///
    /// # Errors
    /// What `work` or the device say.
    pub fn seconds(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        self.not_recording("waits for the device")?;
        self.0.backend.seconds(&mut work)
    }

    /// Does a command, or records it.
    fn queue(&self, command: Command) -> Result<()> {
        if let Some(commands) = &mut *self.0.recording() {
            commands.push(command);
            return Ok(());
        }
        self.0.backend.queue(&command)
    }

    /// # Errors
    /// [`Error::Failed`] while commands are recorded: `what` cannot be replayed.
    fn not_recording(&self, what: &str) -> Result<()> {
        match &*self.0.recording() {
            None => Ok(()),
            Some(commands) => Err(Error::Failed(format!(
                "{}: work that is recorded to be replayed {what}, after {} commands",
                self.name(),
                commands.len()
            ))),
        }
    }

    /// Begins the launch of `kernel` as compiled for storage type `scalar`.
    pub(crate) fn kernel(&self, kernel: &'static Kernel, scalar: DType) -> Launcher<'_> {
        Launcher::new(self, kernel, scalar)
    }
}

impl Shared {
    fn arena(&self) -> MutexGuard<'_, Arena> {
        // Whole whenever the lock is free, as what is recorded is.
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recording(&self) -> MutexGuard<'_, Option<Vec<Command>>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
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
