//! Outputs and gradients against those of PyTorch in f64 (`tests/generate_fixtures/ops.py`).

use std::path::Path;

use selma::autograd::Tape;
use selma::formats::safetensors::Safetensors;
use selma::ops;
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

/// Runs every case of `op` on the tensors named `inputs` and compares `y` and the gradients of the float inputs.
fn check(op: &str, inputs: &[&str], tolerance: f64, run: impl Fn(&Tape, &[Tensor], &Value) -> selma::Result<Tensor>) {
    let Fixtures { file, cases } = fixtures();
    let mut count = 0;
    for (case, settings) in cases.iter().filter(|(_, s)| s["op"] == op) {
        let tensor = |name: &str| file.tensor(&format!("{case}.{name}")).unwrap();
        let xs: Vec<Tensor> = inputs.iter().map(|name| tensor(name)).collect();
        let gradient_of = |name: &str| format!("{case}.d{name}");
        let watched = || xs.iter().zip(inputs).filter(|(_, name)| file.contains(&gradient_of(name)));
        let tape = Tape::watching(watched().map(|(x, _)| x));
        let y = run(&tape, &xs, settings).unwrap_or_else(|e| panic!("{case}: {e}"));
        close(&format!("{case}.y"), &y, &tensor("y"), tolerance);
        if file.contains(&format!("{case}.dy")) {
            let dy = tensor("dy").with_shape(y.shape());
            let gradients = tape.backward_from(&y, dy).unwrap();
            for (x, name) in watched() {
                close(&gradient_of(name), gradients.get(x).unwrap(), &tensor(&format!("d{name}")), tolerance);
            }
        }
        count += 1;
    }
    assert!(count > 0, "no cases of {op}");
}

fn number(settings: &Value, key: &str) -> usize {
    settings[key].as_u64().unwrap() as usize
}

#[test]
fn attention() {
    check("attention", &["q", "k", "v"], 2e-5, |t, x, s| {
        ops::attention(t, &x[0], &x[1], &x[2], number(s, "heads"), s["causal"].as_bool().unwrap())
    });
}
