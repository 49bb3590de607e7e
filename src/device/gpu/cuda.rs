//! NVIDIA GPUs through the driver's API. The driver is loaded when first asked for, so the same binary runs where there
//! is none. Everything goes through one stream, in the order of the calls.

mod capture;
mod card;
mod driver;
mod image;
mod libraries;
mod maps;
mod staging;

use std::any::Any;
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Backend;
use super::argument::{Argument, Launch, most_shared_bytes};
use super::graph::Command;
use super::identity::Identity;
use super::library::Libraries;
use super::table::{Kernel, scalar_index};
use crate::error::{Error, Result};
use capture::Captured;
pub use card::{Card, cards};
use driver::{Code, Handle, value, written};
use image::Compiled;
use staging::Staging;

pub(super) struct Cuda {
    queue: Arc<Queue>,
    loaded: Mutex<Loaded>,
    staging: Mutex<Staging>,
    /// Which kernels were compiled for this device.
    compiled: &'static Compiled,
    /// The version of CUDA that the driver knows.
    driver: (i32, i32),
    /// Whether recorded work becomes a graph.
    graphs: bool,
}

/// The device's context and the one stream that everything goes through. Both live as long as the process.
struct Queue {
    name: String,
    capability: (i32, i32),
    context: Handle,
    stream: Handle,
    /// Whether every launch is waited for.
    blocking: bool,
    /// Whether what is launched becomes part of a graph.
    capturing: AtomicBool,
    /// A failure on the device is told by a later call.
    last: Mutex<Last>,
}

/// What was launched last.
#[derive(Clone, Copy)]
enum Last {
    Nothing,
    Kernel(&'static str),
    Graph,
}

/// What was used so far: modules by file and storage type, functions by kernel and storage type.
#[derive(Default)]
struct Loaded {
    modules: HashMap<(&'static str, usize), Handle>,
    functions: HashMap<(&'static str, usize), Handle>,
}

// SAFETY: the driver's handles may be used from any thread on which the context is current; every call makes it so.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Send for Queue {}
// SAFETY: as above; the driver locks what it must.
unsafe impl Sync for Queue {}

/// A variable of the environment that turns something on or off: `0` is off.
fn setting(name: &str, otherwise: bool) -> bool {
    std::env::var_os(name).filter(|value| !value.is_empty()).map_or(otherwise, |value| value != "0")
}

impl Cuda {
    /// Device number `ordinal`, as the driver counts.
    pub fn open(ordinal: usize) -> Result<Self> {
        let unavailable = |why: String| Error::Usage(format!("--device cuda: {why}"));
        let cards = cards().map_err(unavailable)?;
        let number = cards.len();
        let card = cards.into_iter().nth(ordinal);
        let card = card.ok_or_else(|| unavailable(format!("there is no device {ordinal}; the driver has {number}")))?;
        let compiled = card.compiled().map_err(unavailable)?;
        let driver = card.driver;
        let refused = |e: Code| unavailable(format!("the NVIDIA driver says {e:?}"));
        let null = std::ptr::null_mut();
        // SAFETY: the device is the driver's; the context is released never, as the process's one.
        let context =
            written(null, |context| unsafe { driver::context_retain(context, card.number) }).map_err(refused)?;
        // SAFETY: retained.
        unsafe { driver::context_set(context) }.map_err(refused)?;
        // Nothing goes through the null stream, and so nothing waits for what others put there.
        let create = |stream| unsafe { driver::stream_create(stream, value::STREAM_NON_BLOCKING) };
        let stream = written(null, create).map_err(refused)?;
        let queue = Arc::new(Queue {
            name: card.name,
            capability: card.capability,
            context,
            stream,
            blocking: setting("SELMA_CUDA_BLOCKING", false),
            capturing: AtomicBool::new(false),
            last: Mutex::new(Last::Nothing),
        });
        Ok(Self {
            staging: Mutex::new(Staging::new(&queue)),
            queue,
            loaded: Mutex::default(),
            compiled,
            driver,
            graphs: setting("SELMA_CUDA_GRAPHS", true),
        })
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // The maps are whole whenever the lock is free.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The function of a launch, loaded with its module where it is not yet.
    fn function(&self, launch: &Launch) -> Result<Handle> {
        let (kernel, scalar) = (launch.kernel, scalar_index(launch.scalar));
        let mut loaded = self.loaded();
        if let Some(&function) = loaded.functions.get(&(kernel.name, scalar)) {
            return Ok(function);
        }
        let module = match loaded.modules.get(&(kernel.file, scalar)) {
            Some(&module) => module,
            None => {
                let words = self.compiled.image(kernel.file, scalar, self.queue.capability)?;
                let null = std::ptr::null_mut();
                // SAFETY: a fat binary that nvcc wrote, or PTX with a zero behind it, aligned as the driver asks for.
                let load = |module| unsafe { driver::module_load(module, words.as_ptr().cast::<c_void>()) };
                let loading = format!("loading {}.cu as {} has it", kernel.file, self.compiled.name());
                let module = self.queue.call(&loading, || written(null, load))?;
                loaded.modules.insert((kernel.file, scalar), module);
                module
            }
        };
        let name = CString::new(kernel.name).expect("an identifier");
        // SAFETY: modules are never unloaded, and the name lives here.
        let find = |function| unsafe { driver::module_function(function, module, name.as_ptr()) };
        let function = self.queue.call(kernel.name, || written(std::ptr::null_mut(), find))?;
        self.queue.call(kernel.name, || allow_shared_memory(kernel, function))?;
        takes_its_parameters(kernel, function)?;
        loaded.functions.insert((kernel.name, scalar), function);
        Ok(function)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let function = self.function(launch)?;
        let mut values = Vec::with_capacity(launch.arguments.len());
        for argument in &launch.arguments {
            values.push(match argument {
                Argument::Map { map, address, .. } => {
                    Passed::Map(self.queue.call(launch.kernel.name, || maps::encoded(map, *address, launch.scalar))?)
                }
                other => Passed::Bits(other.bits()),
            });
        }
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(Passed::start).collect();
        let [x, y, z] = launch.grid;
        let (block, shared) = (launch.block, launch.dynamic_bytes as u32);
        let (stream, extra) = (self.queue.stream, std::ptr::null_mut());
        // SAFETY: the builder has checked number, kinds and memory of the arguments against the kernel's source, and each
        // has at least as many bytes as its parameter.
        self.queue.call(launch.kernel.name, || unsafe {
            driver::launch(function, x, y, z, block, 1, 1, shared, stream, pointers.as_mut_ptr(), extra)
        })?;
        self.queue.launched(Last::Kernel(launch.kernel.name))
    }
}

/// A parameter as the driver takes it.
enum Passed {
    Bits(u64),
    Map(maps::Encoded),
}

impl Passed {
    fn start(&mut self) -> *mut c_void {
        match self {
            Self::Bits(bits) => std::ptr::from_mut(bits).cast(),
            Self::Map(map) => std::ptr::from_mut(map).cast(),
        }
    }
}

pub(super) fn has_driver() -> bool {
    driver::is_present()
}

/// Lets a kernel have what the launch builder allows, beyond the 48 KiB that it may have without asking: static and dynamic
/// memory together.
fn allow_shared_memory(kernel: &Kernel, function: Handle) -> Result<(), Code> {
    // SAFETY: the function is loaded, here and below.
    let taken =
        written(0, |bytes| unsafe { driver::function_attribute(bytes, value::FUNCTION_SHARED_BYTES, function) })?;
    let dynamic = most_shared_bytes(kernel) as c_int - taken;
    unsafe { driver::function_set_attribute(function, value::FUNCTION_MOST_DYNAMIC_SHARED_BYTES, dynamic) }
}

/// That the compiled kernel takes what the launch builder passes, where the driver can say so: from CUDA 12.4 on.
fn takes_its_parameters(kernel: &Kernel, function: Handle) -> Result<()> {
    let bytes_of = |index| {
        let mut offset = 0;
        // SAFETY: the function is loaded.
        written(0, |bytes| unsafe { driver::function_parameter(function, index, &raw mut offset, bytes) })
    };
    for (index, parameter) in kernel.parameters.iter().enumerate() {
        match bytes_of(index) {
            // One of these is another function than what the launch builder knows.
            Ok(bytes) if bytes != parameter.kind.size() => {
                return Err(Error::Failed(format!(
                    "{}: parameter {index} ({}) has {bytes} bytes in the compiled kernel and {} in its source: they are of \
                     different versions of selma, which must be built anew",
                    kernel.name,
                    parameter.name,
                    parameter.kind.size()
                )));
            }
            Ok(_) => {}
            // A driver that cannot say is no reason to refuse the kernel.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

impl Queue {
    /// Calls the driver with this device's context.
    fn call<T>(&self, what: &str, f: impl FnOnce() -> Result<T, Code>) -> Result<T> {
        // SAFETY: the context is retained for the life of the process.
        let done = unsafe { driver::context_set(self.context) }.and_then(|()| f());
        done.map_err(|e| Error::Device(format!("{}: {what}: the driver says {e:?}; {}", self.name, self.suspect())))
    }

    /// Which kernel it may be that failed.
    fn suspect(&self) -> String {
        match *self.last() {
            Last::Nothing => "no kernel was launched before".into(),
            Last::Kernel(name) if self.blocking => format!("the last kernel was {name}"),
            Last::Kernel(name) => {
                format!("the kernel launched last was {name} (with SELMA_CUDA_BLOCKING=1 it is the one that failed)")
            }
            Last::Graph => "a graph was replayed last, and which of its kernels failed is unknown (with \
                            SELMA_CUDA_GRAPHS=0 and SELMA_CUDA_BLOCKING=1 it is named here)"
                .into(),
        }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what was launched, and waits for it where that is asked for.
    fn launched(&self, what: Last) -> Result<()> {
        *self.last() = what;
        if self.blocking && !self.capturing.load(Ordering::Relaxed) { self.wait() } else { Ok(()) }
    }

    /// Waits for all that was queued.
    fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as the process.
        self.call("waiting", || unsafe { driver::stream_wait(self.stream) })
    }
}

impl Backend for Cuda {
    fn name(&self) -> String {
        self.queue.name.clone()
    }

    fn identity(&self) -> Identity {
        let ((major, minor), (cuda, of_cuda)) = (self.queue.capability, self.driver);
        let release = driver::release().map_or(String::new(), |release| format!(", {release}"));
        Identity {
            device: self.queue.name.clone(),
            capability: format!("{major}.{minor}"),
            driver: format!("CUDA {cuda}.{of_cuda}{release}"),
            kernels: self.compiled.hash(self.queue.capability),
        }
    }

    fn is_simulated(&self) -> bool {
        false
    }

    fn runs_hopper(&self) -> bool {
        self.queue.capability == (9, 0) && driver::has_tensor_maps()
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        self.queue.call(&format!("allocating {bytes} bytes"), || {
            // SAFETY: the address is freed once, when the arena has given it up.
            match written(0, |address| unsafe { driver::allocate(address, bytes) }) {
                Ok(address) => Ok(Some(address)),
                Err(Code::OUT_OF_MEMORY) => Ok(None),
                Err(e) => Err(e),
            }
        })
    }

    fn free(&self, address: u64) {
        // SAFETY: allocated above, and no buffer refers to it. The driver waits for kernels that do. A failure here is one of
        // an earlier call, which the next call that can tell will tell.
        let _ = self.queue.call("freeing memory", || unsafe { driver::free(address) });
    }

    fn room(&self) -> Result<Option<[u64; 2]>> {
        let mut total = 0;
        // SAFETY: writes two numbers.
        let ask = |free| unsafe { driver::memory_info(free, &raw mut total) };
        let free = self.queue.call("asking for free memory", || written(0, ask))?;
        Ok(Some([free as u64, total as u64]))
    }

    fn upload(&self, data: &[u8], to: u64) -> Result<()> {
        // SAFETY: the buffer has checked that the bytes lie inside its allocation, and they stay until the copy is done.
        self.queue.call("copying to the device", || unsafe {
            driver::copy_to_device(to, data.as_ptr().cast(), data.len(), self.queue.stream)?;
            driver::stream_wait(self.queue.stream)
        })
    }

    fn stage(&self, data: &[u8], to: u64) -> Result<()> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        staging.copy(data, to)
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: as in `upload`.
        self.queue.call("copying from the device", || unsafe {
            driver::copy_to_host(to.as_mut_ptr().cast(), from, to.len(), self.queue.stream)?;
            driver::stream_wait(self.queue.stream)
        })
    }

    fn queue(&self, command: &Command) -> Result<()> {
        match *command {
            Command::Launch(ref launch) => self.launch(launch),
            // SAFETY: as in `upload`, here and below.
            Command::Clear { to, bytes } => {
                self.queue.call("clearing memory", || unsafe { driver::fill_bytes(to, 0, bytes, self.queue.stream) })
            }
            Command::Copy { from, to, bytes } => self.queue.call("copying on the device", || unsafe {
                driver::copy_on_device(to, from, bytes, self.queue.stream)
            }),
        }
    }

    fn capture(&self, commands: &[Command]) -> Result<Option<Box<dyn Any + Send + Sync>>> {
        if !self.graphs {
            return Ok(None);
        }
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
