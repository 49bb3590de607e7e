//! The functions of NVIDIA's driver that selma calls (CUDA Driver API), from the library that is loaded when first asked
//! for. What a function returns is kept as the number that it is: newer drivers have results that nobody here knows.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::OnceLock;

use libloading::Library;

/// Contexts, streams, modules, functions, graphs and events are pointers that only the driver follows.
pub type Handle = *mut c_void;

/// A `CUresult` that is no success.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code(u32);

impl Code {
    pub const OUT_OF_MEMORY: Code = Code(2);
    /// Also where the driver lacks a function.
    const NOT_FOUND: Code = Code(500);

    /// # Errors
    /// The code, unless it is 0.
    fn result(code: u32) -> Result<(), Code> {
        if code == 0 { Ok(()) } else { Err(Code(code)) }
    }
}

/// The driver's name for it, where it has one, and the number.
impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: writes one pointer, to text that lives as long as the library: always.
        let known = unsafe { error_name(self.0, &raw mut name) }.is_ok() && !name.is_null();
        if known {
            // SAFETY: as above.
            write!(f, "{} ({})", unsafe { CStr::from_ptr(name) }.to_string_lossy(), self.0)
        } else {
            write!(f, "error {}", self.0)
        }
    }
}

fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let names = if cfg!(windows) { &["nvcuda.dll"][..] } else { &["libcuda.so.1", "libcuda.so"] };
    // SAFETY: the initialisers of a library of this name are the driver's.
    LIBRARY.get_or_init(|| names.iter().find_map(|&name| unsafe { Library::new(name) }.ok())).as_ref()
}

/// The driver's own version, such as 580.65.06, where the system tells.
pub fn release() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let is_version = |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

/// Whether there is a driver.
pub fn is_present() -> bool {
    library().is_some()
}

/// Whether it makes tensor maps, as drivers of CUDA 12.0 and later do.
pub fn has_tensor_maps() -> bool {
    // SAFETY: nothing is called.
    unsafe { symbol::<unsafe extern "C" fn()>("cuTensorMapEncodeTiled") }.is_some()
}

/// # Safety
/// `F` must be the type of the function of that name.
unsafe fn symbol<F: Copy>(name: &str) -> Option<F> {
    // SAFETY: as promised by the caller; the library is never unloaded.
    library().and_then(|library| unsafe { library.get::<F>(name.as_bytes()) }.ok()).map(|found| *found)
}

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($argument:ident: $type:ty),*);)*) => {
        $(
            /// # Safety
            /// As the driver's documentation says of the function.
            #[allow(clippy::too_many_arguments, reason = "they are the driver's")]
            pub unsafe fn $name($($argument: $type),*) -> Result<(), Code> {
                type Function = unsafe extern "C" fn($($type),*) -> u32;
                static FUNCTION: OnceLock<Option<Function>> = OnceLock::new();
                // SAFETY: the types are those of cuda.h.
                match *FUNCTION.get_or_init(|| unsafe { symbol::<Function>($symbol) }) {
                    // SAFETY: as promised by the caller.
                    Some(function) => Code::result(unsafe { function($($argument),*) }),
                    None => Err(Code::NOT_FOUND),
                }
            }
        )*
    };
}

functions! {
    init = "cuInit" (flags: c_uint);
    error_name = "cuGetErrorName" (code: u32, name: *mut *const c_char);
    driver_version = "cuDriverGetVersion" (version: *mut c_int);
    device_count = "cuDeviceGetCount" (count: *mut c_int);
    device_get = "cuDeviceGet" (device: *mut c_int, ordinal: c_int);
    device_name = "cuDeviceGetName" (name: *mut c_char, length: c_int, device: c_int);
    device_attribute = "cuDeviceGetAttribute" (value: *mut c_int, attribute: c_int, device: c_int);
    device_memory = "cuDeviceTotalMem_v2" (bytes: *mut usize, device: c_int);
    context_retain = "cuDevicePrimaryCtxRetain" (context: *mut Handle, device: c_int);
    context_set = "cuCtxSetCurrent" (context: Handle);
    memory_info = "cuMemGetInfo_v2" (free: *mut usize, total: *mut usize);
    allocate = "cuMemAlloc_v2" (address: *mut u64, bytes: usize);
    free = "cuMemFree_v2" (address: u64);
    allocate_pinned = "cuMemHostAlloc" (host: *mut *mut c_void, bytes: usize, flags: c_uint);
    free_pinned = "cuMemFreeHost" (host: *mut c_void);
    copy_to_device = "cuMemcpyHtoDAsync_v2" (to: u64, from: *const c_void, bytes: usize, stream: Handle);
    copy_to_host = "cuMemcpyDtoHAsync_v2" (to: *mut c_void, from: u64, bytes: usize, stream: Handle);
    copy_on_device = "cuMemcpyDtoDAsync_v2" (to: u64, from: u64, bytes: usize, stream: Handle);
    fill_bytes = "cuMemsetD8Async" (to: u64, value: u8, bytes: usize, stream: Handle);
    module_load = "cuModuleLoadData" (module: *mut Handle, image: *const c_void);
    module_function = "cuModuleGetFunction" (function: *mut Handle, module: Handle, name: *const c_char);
    function_attribute = "cuFuncGetAttribute" (value: *mut c_int, attribute: c_int, function: Handle);
    function_set_attribute = "cuFuncSetAttribute" (function: Handle, attribute: c_int, value: c_int);
    function_parameter = "cuFuncGetParamInfo" (function: Handle, index: usize, offset: *mut usize, bytes: *mut usize);
    launch = "cuLaunchKernel" (
        function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared_bytes: c_uint, stream: Handle, arguments: *mut *mut c_void, extra: *mut *mut c_void
    );
    encode_tiled = "cuTensorMapEncodeTiled" (
        map: *mut c_void, data_type: c_uint, rank: c_uint, address: *mut c_void, sizes: *const u64, strides: *const u64,
        boxes: *const c_uint, steps: *const c_uint, interleave: c_uint, swizzle: c_uint, l2_promotion: c_uint, fill: c_uint
    );
    encode_patches = "cuTensorMapEncodeIm2col" (
        map: *mut c_void, data_type: c_uint, rank: c_uint, address: *mut c_void, sizes: *const u64, strides: *const u64,
        lower: *const c_int, upper: *const c_int, channels: c_uint, pixels: c_uint, steps: *const c_uint,
        interleave: c_uint, swizzle: c_uint, l2_promotion: c_uint, fill: c_uint
    );
    stream_create = "cuStreamCreate" (stream: *mut Handle, flags: c_uint);
    stream_wait = "cuStreamSynchronize" (stream: Handle);
    capture_begin = "cuStreamBeginCapture_v2" (stream: Handle, mode: c_int);
    capture_end = "cuStreamEndCapture" (stream: Handle, graph: *mut Handle);
    graph_instantiate = "cuGraphInstantiateWithFlags" (executable: *mut Handle, graph: Handle, flags: u64);
    graph_launch = "cuGraphLaunch" (executable: Handle, stream: Handle);
    graph_destroy = "cuGraphDestroy" (graph: Handle);
    graph_executable_destroy = "cuGraphExecDestroy" (executable: Handle);
    event_create = "cuEventCreate" (event: *mut Handle, flags: c_uint);
    event_record = "cuEventRecord" (event: Handle, stream: Handle);
    event_wait = "cuEventSynchronize" (event: Handle);
    event_elapsed = "cuEventElapsedTime" (milliseconds: *mut f32, begin: Handle, end: Handle);
    event_destroy = "cuEventDestroy_v2" (event: Handle);
}

/// Values of cuda.h.
pub mod value {
    use std::ffi::{c_int, c_uint};

    pub const DEVICE_CAPABILITY_MAJOR: c_int = 75;
    pub const DEVICE_CAPABILITY_MINOR: c_int = 76;
    pub const DEVICE_MULTIPROCESSORS: c_int = 16;
    pub const FUNCTION_SHARED_BYTES: c_int = 1;
    pub const FUNCTION_MOST_DYNAMIC_SHARED_BYTES: c_int = 8;
    /// No order with the null stream.
    pub const STREAM_NON_BLOCKING: c_uint = 1;
    /// Other threads may go on calling the driver.
    pub const CAPTURE_THREAD_LOCAL: c_int = 1;
    pub const EVENT_WITHOUT_TIME: c_uint = 2;
    pub const MAP_OF_F16: c_uint = 6;
    pub const MAP_OF_BF16: c_uint = 9;
    /// What is fetched into L2 at once: 256 bytes.
    pub const MAP_L2_256: c_uint = 3;
}

/// What a function writes through its first argument.
///
/// # Errors
/// The function's.
pub fn written<T: Copy>(initial: T, function: impl FnOnce(*mut T) -> Result<(), Code>) -> Result<T, Code> {
    let mut value = initial;
    function(&raw mut value)?;
    Ok(value)
}
