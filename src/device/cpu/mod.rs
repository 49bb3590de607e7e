//! What CPU op bodies share: matrix products and vectorised elementary functions.

pub mod attention;
pub mod convolve;
pub mod gemm;
pub mod heads;
pub mod math;
pub mod patches;
pub mod pool;
pub mod sums;
