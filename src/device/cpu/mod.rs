//! What CPU op bodies share: matrix products and vectorised elementary functions.

pub mod convolve;
pub mod gemm;
pub mod math;
pub mod patches;
pub mod pool;
pub mod sums;
