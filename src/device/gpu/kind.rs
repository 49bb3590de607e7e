//! What kernels' parameters take. Also part of the build script, which reads it from `kernels/*.cu`.

/// What a parameter takes: a buffer to write or to read, a number, or a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Mutable(Element),
    Const(Element),
    /// `int`.
    Int,
    /// `unsigned`.
    Unsigned,
    /// `long long`.
    Long,
    /// `float`.
    Float,
    /// `TENSOR_MAP`: boxes of a tensor of `scalar_t`, which are read or written.
    Map,
}

/// What a buffer holds. Kernels are compiled once for each storage type, which is [`Element::Scalar`] here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// `scalar_t`.
    Scalar,
    F32,
    I64,
}

impl Kind {
    /// Bytes that a launch passes.
    pub fn size(self) -> usize {
        match self {
            Kind::Int | Kind::Unsigned | Kind::Float => 4,
            Kind::Mutable(_) | Kind::Const(_) | Kind::Long => 8,
            Kind::Map => 128,
        }
    }
}
