//! NVIDIA GPUs through the driver's API. The driver is loaded when first asked for, so the same binary runs where there
//! is none. Everything goes through one stream, in the order of the calls.

mod capture;
mod libraries;
mod staging;

use std::any::Any;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{DriverError, result, sys};

use super::Backend;
use super::argument::{Argument, Launch, MOST_SHARED_BYTES};
use super::graph::Command;
use super::library::Libraries;
use super::table::kernels::{IMAGES, TOOLKIT};
use super::table::scalar_index;
use crate::error::{Error, Result};
use capture::Captured;
use staging::Staging;

/// The oldest that the kernels are compiled for.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

pub(super) struct Cuda {
    queue: Arc<Queue>,
    loaded: Mutex<Loaded>,
    staging: Mutex<Staging>,
}

/// The device's context and the one stream that everything goes through. Both live as long as the process.
struct Queue {
    name: String,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// The kernel that was launched last: a failure on the device is told by a later call.
    last: Mutex<&'static str>,
}

/// What was used so far: modules by file and storage type, functions by kernel and storage type.
#[derive(Default)]
struct Loaded {
    modules: HashMap<(&'static str, usize), sys::CUmodule>,
    functions: HashMap<(&'static str, usize), sys::CUfunction>,
}

// SAFETY: the driver's handles may be used from any thread on which the context is current; every call makes it so.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Send for Queue {}
// SAFETY: as above; the driver locks what it must.
unsafe impl Sync for Queue {}

impl Cuda {
    /// Device number `ordinal`, as the driver counts.
    pub fn open(ordinal: usize) -> Result<Self> {
        let unavailable = |why: String| Error::Usage(format!("--device cuda: {why}"));
        if let Err(why) = IMAGES {
            return Err(unavailable(why.into()));
        }
        if !has_driver() {
            return Err(unavailable("no NVIDIA driver is installed (libcuda.so was not found)".into()));
        }
        let refused = |e: DriverError| unavailable(format!("the NVIDIA driver says {e:?}"));
        result::init().map_err(refused)?;
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(refused)?;
        let (built, runs) = (TOOLKIT, (version / 1000, version % 1000 / 10));
        if runs.0 < built.0 {
            let driver = if built.0 >= 13 { "580" } else { "525" };
            return Err(unavailable(format!(
                "the kernels were compiled by CUDA {}.{}, which needs NVIDIA driver {driver} or newer; this one knows \
                 CUDA {}.{}",
                built.0, built.1, runs.0, runs.1
            )));
        }
        let count = result::device::get_count().map_err(refused)?;
        let number = i32::try_from(ordinal).ok().filter(|&n| n < count);
        let number =
            number.ok_or_else(|| unavailable(format!("there is no device {ordinal}; the driver has {count}")))?;
        let device = result::device::get(number).map_err(refused)?;
        let name = result::device::get_name(device).map_err(refused)?;
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        // SAFETY: the device is the driver's.
        let attribute = |which| unsafe { result::device::get_attribute(device, which) }.map_err(refused);
        let capability = (attribute(MAJOR)?, attribute(MINOR)?);
        if capability < LEAST_CAPABILITY {
            let (major, minor) = capability;
            let needs = "kernels need 8.0 (Ampere) or later";
            return Err(unavailable(format!("{name} has compute capability {major}.{minor}; {needs}")));
        }
        // SAFETY: the device is the driver's; the context is released never, as the process's one.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(refused)?;
        // SAFETY: retained.
        unsafe { result::ctx::set_current(context) }.map_err(refused)?;
        // Copies that wait go through the null stream; a stream of this kind keeps its order with it.
        let stream = result::stream::create(result::stream::StreamKind::Default).map_err(refused)?;
        let queue = Arc::new(Queue { name, context, stream, last: Mutex::new("none") });
        Ok(Self { staging: Mutex::new(Staging::new(&queue)), queue, loaded: Mutex::default() })
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // The maps are whole whenever the lock is free.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The function of a launch, loaded with its module where it is not yet.
    fn function(&self, launch: &Launch) -> Result<sys::CUfunction> {
        let (kernel, scalar) = (launch.kernel, scalar_index(launch.scalar));
        let mut loaded = self.loaded();
        if let Some(&function) = loaded.functions.get(&(kernel.name, scalar)) {
            return Ok(function);
        }
        let module = match loaded.modules.get(&(kernel.file, scalar)) {
            Some(&module) => module,
            None => {
                let images = IMAGES.expect("no device could be opened without them");
                let image = images.iter().find(|image| image.file == kernel.file);
                let bytes = image.expect("every kernel file has an image").fatbins[scalar];
                // The driver reads words.
                let mut words = vec![0_u128; bytes.len().div_ceil(size_of::<u128>())];
                bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
                // SAFETY: a fat binary that nvcc wrote, whole, and aligned as it asks for.
                let load = || unsafe { result::module::load_data(words.as_ptr().cast::<c_void>()) };
                // Where it fails, most likely nothing of the file is for this GPU.
                let loading = format!("loading {}.cu as it was compiled (SELMA_CUDA_ARCH)", kernel.file);
                let module = self.queue.call(&loading, load)?;
                loaded.modules.insert((kernel.file, scalar), module);
                module
            }
        };
        let name = CString::new(kernel.name).expect("an identifier");
        // SAFETY: modules are never unloaded.
        let function = self.queue.call(kernel.name, || unsafe { result::module::get_function(module, name) })?;
        self.queue.call(kernel.name, || allow_shared_memory(function))?;
        loaded.functions.insert((kernel.name, scalar), function);
        Ok(function)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let function = self.function(launch)?;
        let mut values: Vec<u64> = launch.arguments.iter().map(Argument::bits).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        let [x, y, z] = launch.grid;
        let (grid, block, shared) = ((x, y, z), (launch.block, 1, 1), launch.dynamic_bytes as u32);
        // SAFETY: the builder has checked number, kinds and memory of the arguments against the kernel's source, and each
        // has at least as many bytes as its parameter.
        self.queue.call(launch.kernel.name, || unsafe {
            result::launch_kernel(function, grid, block, shared, self.queue.stream, &mut pointers)
        })?;
        *self.queue.last() = launch.kernel.name;
        Ok(())
    }
}

pub(super) fn has_driver() -> bool {
    // SAFETY: looks for a library, whose initialisers are the driver's.
    unsafe { sys::is_culib_present() }
}

/// Lets a kernel have what the launch builder allows, beyond the 48 KiB that it may have without asking: static and dynamic
/// memory together.
fn allow_shared_memory(function: sys::CUfunction) -> Result<(), DriverError> {
    use sys::CUfunction_attribute::{
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as DYNAMIC, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as STATIC,
    };
    // SAFETY: the function is loaded, here and below.
    let taken = unsafe { result::function::get_function_attribute(function, STATIC) }?;
    unsafe { result::function::set_function_attribute(function, DYNAMIC, MOST_SHARED_BYTES as i32 - taken) }
}

impl Queue {
    /// Calls the driver with this device's context.
    fn call<T>(&self, what: &str, f: impl FnOnce() -> Result<T, DriverError>) -> Result<T> {
        // SAFETY: the context is retained for the life of the process.
        let done = unsafe { result::ctx::set_current(self.context) }.and_then(|()| f());
        done.map_err(|e| {
            let (name, last) = (&self.name, *self.last());
            Error::Failed(format!(
                "{name}: {what}: the driver says {e:?}; the kernel launched last was {last} (with CUDA_LAUNCH_BLOCKING=1 it \
                 is the one that failed)"
            ))
        })
    }

    fn last(&self) -> MutexGuard<'_, &'static str> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all that was queued.
    fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as the process.
        self.call("waiting", || unsafe { result::stream::synchronize(self.stream) })
    }
}

impl Backend for Cuda {
    fn name(&self) -> String {
        self.queue.name.clone()
    }

    fn is_simulated(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        self.queue.call(&format!("allocating {bytes} bytes"), || {
            // SAFETY: the address is freed once, when the arena has given it up.
            match unsafe { result::malloc_sync(bytes) } {
                Ok(address) => Ok(Some(address)),
                Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
                Err(e) => Err(e),
            }
        })
    }

    fn free(&self, address: u64) {
        // SAFETY: allocated above, and no buffer refers to it. The driver waits for kernels that do. A failure here is one of
        // an earlier call, which the next call that can tell will tell.
        let _ = self.queue.call("freeing memory", || unsafe { result::free_sync(address) });
    }

    fn room(&self) -> Result<Option<[u64; 2]>> {
        let (free, total) = self.queue.call("asking for free memory", result::mem_get_info)?;
        Ok(Some([free as u64, total as u64]))
    }

    fn upload(&self, data: &[u8], to: u64) -> Result<()> {
        // SAFETY: the buffer has checked that the bytes lie inside its allocation.
        self.queue.call("copying to the device", || unsafe { result::memcpy_htod_sync(to, data) })
    }

    fn stage(&self, data: &[u8], to: u64) -> Result<()> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        staging.copy(data, to)
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: as in `upload`.
        self.queue.call("copying from the device", || unsafe { result::memcpy_dtoh_sync(to, from) })
    }

    fn queue(&self, command: &Command) -> Result<()> {
        match *command {
            Command::Launch(ref launch) => self.launch(launch),
            // SAFETY: as in `upload`, here and below.
            Command::Clear { to, bytes } => self
                .queue
                .call("clearing memory", || unsafe { result::memset_d8_async(to, 0, bytes, self.queue.stream) }),
            Command::Copy { from, to, bytes } => self.queue.call("copying on the device", || unsafe {
                result::memcpy_dtod_async(to, from, bytes, self.queue.stream)
            }),
        }
    }

    fn capture(&self, commands: &[Command]) -> Result<Option<Box<dyn Any + Send + Sync>>> {
        // Modules cannot be loaded while the stream is captured.
        for command in commands {
            if let Command::Launch(launch) = command {
                self.function(launch)?;
            }
        }
        let captured = Captured::new(&self.queue, || commands.iter().try_for_each(|command| self.queue(command)))?;
        Ok(Some(Box::new(captured)))
    }

    fn replay(&self, captured: &(dyn Any + Send + Sync)) -> Result<()> {
        let captured: &Captured = captured.downcast_ref().expect("made by `capture`");
        captured.launch()
    }

    fn libraries(&self) -> Option<Box<dyn Libraries>> {
        Some(Box::new(libraries::Loaded::new(&self.queue)))
    }

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        capture::seconds(&self.queue, work)
    }
}
