//! A launch as a backend receives it.

use super::table::Kernel;
use super::tensor_map::TensorMap;
use crate::dtype::DType;

/// What a block may use of shared memory, static and dynamic together, on every target: `SHARED_LIMIT` of
/// `kernels/sim/runtime.h`.
pub const MOST_SHARED_BYTES: usize = 99 << 10;
/// The same for kernels that are for compute capability 9.0 alone: `HOPPER_LIMIT`.
pub const MOST_SHARED_BYTES_HOPPER: usize = 227 << 10;

/// What a block of this kernel may use.
pub fn most_shared_bytes(kernel: &Kernel) -> usize {
    if kernel.hopper { MOST_SHARED_BYTES_HOPPER } else { MOST_SHARED_BYTES }
}

/// A launch as a backend receives it: checked, and not empty.
#[derive(Clone)]
pub struct Launch {
    pub kernel: &'static Kernel,
    /// The storage type that the kernel is compiled for.
    pub scalar: DType,
    pub grid: [u32; 3],
    pub block: u32,
    pub dynamic_bytes: usize,
    pub arguments: Vec<Argument>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    Memory {
        address: u64,
        bytes: usize,
        role: Role,
    },
    /// A pointer to nothing, for an input that is missing.
    Null,
    Int(i32),
    Unsigned(u32),
    Long(i64),
    Float(f32),
    /// Boxes of a tensor in this memory.
    Map {
        map: TensorMap,
        address: u64,
        bytes: usize,
        role: Role,
    },
}

/// What a kernel does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    Input = 0,
    /// Every byte is written, and none is read before.
    Output = 1,
    /// Read and written, or written in part.
    Update = 2,
}

impl Argument {
    /// The memory that it stands for: address, bytes, and what the kernel does with it.
    pub fn memory(&self) -> Option<(u64, usize, Role)> {
        match *self {
            Argument::Memory { address, bytes, role } | Argument::Map { address, bytes, role, .. } => {
                Some((address, bytes, role))
            }
            _ => None,
        }
    }

    /// The bytes that the kernel is passed, in the first four or all eight. Of a map they are made where the launch is.
    pub fn bits(&self) -> u64 {
        match *self {
            Argument::Memory { address, .. } | Argument::Map { address, .. } => address,
            Argument::Null => 0,
            Argument::Int(x) => u64::from(x.cast_unsigned()),
            Argument::Unsigned(x) => x.into(),
            Argument::Long(x) => x.cast_unsigned(),
            Argument::Float(x) => x.to_bits().into(),
        }
    }

    pub fn describe(&self) -> &'static str {
        match self {
            Argument::Memory { role: Role::Input, .. } => "an input",
            Argument::Memory { .. } => "an output",
            Argument::Null => "no buffer",
            Argument::Int(_) => "an int",
            Argument::Unsigned(_) => "an unsigned",
            Argument::Long(_) => "a long long",
            Argument::Float(_) => "a float",
            Argument::Map { .. } => "a tensor map",
        }
    }
}
