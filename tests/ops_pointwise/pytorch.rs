//! What PyTorch gives in f64 (`tests/generate_fixtures/ops.py`).

use std::path::Path;

use selma::formats::safetensors::Safetensors;
use selma::tensor::Tensor;
use serde_json::Value;

pub struct Fixtures {
    pub file: Safetensors,
    pub cases: serde_json::Map<String, Value>,
}

pub fn fixtures() -> Fixtures {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ops.safetensors");
    let file = Safetensors::open(&path).unwrap();
    let cases = serde_json::from_str(&file.metadata()["cases"]).unwrap();
    Fixtures { file, cases }
}

/// Compares with an error allowed of `tolerance` times the largest expected value, or times 1 where that is larger.
pub fn close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: {:?} and {:?}", got.shape(), expected.shape());
    let (got, expected) = (got.reals::<f64>(), expected.reals::<f64>());
    let largest = expected.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    for (i, (g, e)) in got.iter().zip(&*expected).enumerate() {
        assert!((g - e).abs() <= tolerance * largest.max(1.0), "{what} at {i}: {g}, PyTorch has {e}");
    }
}
