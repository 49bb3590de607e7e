//! The kernels of this build and what their parameters take. `build.rs` reads both from `kernels/*.cu`, so a kernel that
//! does not exist does not compile, and a wrong argument is an error before the launch.

use std::ffi::{c_char, c_void};

pub use super::kind::{Element, Kind};
use crate::dtype::DType;

/// A kernel of `kernels/*.cu`.
pub struct Kernel {
    pub name: &'static str,
    /// Its file, without `.cu`.
    pub file: &'static str,
    /// Threads that a block may have at most.
    pub most_threads: u32,
    pub parameters: &'static [Parameter],
    /// Whether it is for compute capability 9.0 alone, and compiled in 16 bits only.
    pub hopper: bool,
    /// The kernel in host code, where the simulator is part of the build.
    pub simulated: Option<Simulated>,
}

pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
}

impl Element {
    /// The dtype of this element in the compilation for `scalar`.
    pub fn dtype(self, scalar: DType) -> DType {
        match self {
            Element::Scalar => scalar,
            Element::F32 => DType::F32,
            Element::I64 => DType::I64,
        }
    }
}

/// A kernel's function for one thread, given pointers to the arguments.
pub type Function = unsafe extern "C" fn(arguments: *const *mut c_void);

/// Runs blocks `first` to `end` of a `Launch` of `kernels/sim/runtime.h`; false, and a message, where a check failed.
pub type RunBlocks = unsafe extern "C" fn(
    launch: *const c_void,
    first: usize,
    end: usize,
    message: *mut c_char,
    capacity: usize,
) -> bool;

/// Compilations for f32 (where there is one), bf16 and f16: as they are, and with a check of every memory access.
pub struct Simulated {
    pub plain: [Option<Function>; 3],
    pub checked: [Option<Function>; 3],
}

/// What a kernel takes of a multiprocessor on one target, as nvcc's assembler reports it (`ptxas -v`).
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Resources {
    pub kernel: &'static str,
    /// The storage type that it is compiled for.
    pub dtype: &'static str,
    /// `sm_80` and so on.
    pub target: &'static str,
    /// Of a thread.
    pub registers: u32,
    /// Bytes that a thread stores to memory, and loads, because its registers do not suffice.
    pub spill_stores: u32,
    pub spill_loads: u32,
    /// Bytes of a block.
    pub static_shared: u32,
    /// Bytes of a thread.
    pub stack: u32,
}

/// A compiled kernel file.
pub struct Image {
    /// The file, without `.cu`.
    pub file: &'static str,
    /// A fat binary, or packed PTX, for each storage type: f32, bf16, f16. Empty where there is none.
    pub scalars: [&'static [u8]; 3],
}

/// Where the compilation for a storage type stands among those of a kernel.
///
/// # Panics
/// For types that kernels do not store; the launch builder refuses those.
pub(super) fn scalar_index(scalar: DType) -> usize {
    match scalar {
        DType::F32 => 0,
        DType::Bf16 => 1,
        DType::F16 => 2,
        other => panic!("no kernel stores {}", other.name()),
    }
}

/// What is generated: a static of type [`Kernel`] for each kernel, the constants that launches share with them, what the
/// kernels take of each target, their machine code, and how to run them on the host; or what the build lacked for it.
pub mod kernels {
    use super::{Element, Image, Kernel, Kind, Parameter, Resources, RunBlocks};

    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// The kernels with mistakes that test the simulator.
#[cfg(all(test, feature = "simulator"))]
pub(super) mod planted {
    use super::{Element, Kernel, Kind, Parameter};

    include!(concat!(env!("OUT_DIR"), "/planted.rs"));
}
