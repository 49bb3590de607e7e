//! The networks against PyTorch's recorded outputs, and what they refuse.

mod attention;
mod checkpointing;
mod parity;
mod refusals;
mod save;

use std::path::{Path, PathBuf};

use selma::tensor::Tensor;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

/// `||a - b|| / ||b||`.
fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.reals::<f64>(), b.reals::<f64>());
    let difference: f64 = a.iter().zip(b.iter()).map(|(a, b)| (a - b).powi(2)).sum();
    (difference / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}
