//! What CPU op bodies share: matrix products and vectorised elementary functions.

pub mod gemm;
pub mod math;
pub mod patches;
