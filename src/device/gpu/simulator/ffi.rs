//! What `kernels/sim/runtime.h` declares, as Rust lays it out.

use std::ffi::c_char;

use crate::device::gpu::argument::Role;
use crate::device::gpu::table::Function;

/// A pointer that the runtime follows on several threads.
#[repr(transparent)]
pub struct Shared<T>(pub *const T);

// SAFETY: what the runtime reads does not change during a launch; for what it writes see the call.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

/// `Range` of runtime.h.
#[repr(C)]
pub struct Range {
    pub name: Shared<c_char>,
    pub start: Shared<u8>,
    pub bytes: usize,
    pub written: Shared<u8>,
    pub role: Role,
}

/// `Launch` of runtime.h.
#[repr(C)]
pub struct Launch {
    pub kernel: Shared<c_char>,
    pub function: Function,
    pub arguments: Shared<Shared<u64>>,
    pub ranges: Shared<Range>,
    pub range_count: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_bytes: usize,
    pub checked: bool,
    pub backwards: bool,
    pub traced: bool,
    pub hopper: bool,
}
