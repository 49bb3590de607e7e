//! What the checks share: deterministic values, and the checks that hold for any op.

use std::path::Path;

use rayon::ThreadPoolBuilder;
use selma::Result;
use selma::autograd::Tape;
use selma::formats::safetensors::Safetensors;
use selma::tensor::{DType, Tensor};
use serde_json::{Map, Value};

/// An op as a function of its inputs, all of which have gradients.
pub type Op<'a> = &'a (dyn Fn(&Tape, &[Tensor]) -> Result<Tensor> + Sync);

/// Values in about [-1, 1] that look random and are the same everywhere.
pub fn values(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..len).map(next).collect()
}

pub fn inputs(shapes: &[&[usize]], dtype: DType) -> Vec<Tensor> {
    let input =
        |(i, shape): (usize, &&[usize])| Tensor::new(values(shape.iter().product(), i as u64 + 1), shape).cast(dtype);
    shapes.iter().enumerate().map(input).collect()
}

/// The output, and the gradients of the watched inputs.
fn run(op: Op, inputs: &[Tensor], watched: &[usize]) -> (Tensor, Vec<Tensor>) {
    let tape = Tape::watching(watched.iter().map(|&i| &inputs[i]));
    let y = op(&tape, inputs).unwrap();
    let dy = Tensor::new(values(y.len(), 99), y.shape()).cast(y.dtype());
    let mut gradients = tape.backward_from(&y, dy).unwrap();
    let gradients = watched.iter().map(|&i| gradients.remove(&inputs[i]).unwrap());
    (y, gradients.collect())
}

/// Every check that needs no recorded numbers.
pub fn check(what: &str, shapes: &[&[usize]], op: Op) {
    differences(what, shapes, op);
    one_at_a_time(what, shapes, op);
    threads(what, shapes, op);
    sixteen_bits(what, shapes, op);
}

/// The op is linear in each input, so that a central difference is exact but for rounding.
fn differences(what: &str, shapes: &[&[usize]], op: Op) {
    let inputs = inputs(shapes, DType::F64);
    let all: Vec<usize> = (0..inputs.len()).collect();
    let (y, gradients) = run(op, &inputs, &all);
    let dy = values(y.len(), 99);
    let loss = |inputs: &[Tensor]| -> f64 {
        let y = op(&Tape::off(), inputs).unwrap();
        y.data::<f64>().iter().zip(&dy).map(|(y, dy)| y * dy).sum()
    };
    for (i, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.shape(), inputs[i].shape(), "{what}: input {i}");
        let stride = (gradient.len() / 48).max(1);
        for at in (0..gradient.len()).step_by(stride) {
            let moved = |by: f64| {
                let mut data = inputs[i].data::<f64>().to_vec();
                data[at] += by;
                let mut inputs = inputs.clone();
                inputs[i] = Tensor::new(data, inputs[i].shape());
                loss(&inputs)
            };
            let expected = moved(0.5) - moved(-0.5);
            let got = gradient.data::<f64>()[at];
            assert!(
                (got - expected).abs() <= 1e-10 * (1.0 + expected.abs()),
                "{what} {shapes:?}: d input {i} at {at}: {got}, differences say {expected}"
            );
        }
    }
}

/// Watching one input gives the same gradient as watching all, and no other.
fn one_at_a_time(what: &str, shapes: &[&[usize]], op: Op) {
    let inputs = inputs(shapes, DType::F32);
    let all: Vec<usize> = (0..inputs.len()).collect();
    let (_, gradients) = run(op, &inputs, &all);
    for (i, gradient) in gradients.iter().enumerate() {
        let (_, alone) = run(op, &inputs, &[i]);
        assert_eq!(alone[0].bytes(), gradient.bytes(), "{what} {shapes:?}: input {i}");
    }
}

/// Any number of threads gives the same bytes.
pub fn threads(what: &str, shapes: &[&[usize]], op: Op) {
    let inputs = inputs(shapes, DType::F32);
    let all: Vec<usize> = (0..inputs.len()).collect();
    let on = |threads: usize| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (y, gradients) = pool.install(|| run(op, &inputs, &all));
        let bytes = |x: &Tensor| x.bytes().to_vec();
        std::iter::once(&y).chain(&gradients).map(bytes).collect::<Vec<_>>()
    };
    let one = on(1);
    for threads in [2, 8] {
        assert!(on(threads) == one, "{what} {shapes:?}: {threads} threads");
    }
}

/// 16-bit tensors are computed in f32 and rounded once; the gradients of parameters stay f32.
fn sixteen_bits(what: &str, shapes: &[&[usize]], op: Op) {
    for dtype in [DType::Bf16, DType::F16] {
        let narrow = inputs(shapes, dtype);
        let wide: Vec<Tensor> = narrow.iter().map(|x| x.cast(DType::F32)).collect();
        let all: Vec<usize> = (0..narrow.len()).collect();
        let (y, gradients) = run(op, &narrow, &all);
        let expected = op(&Tape::off(), &wide).unwrap();
        assert_eq!(y.bytes(), expected.cast(dtype).bytes(), "{what} {shapes:?} in {}", dtype.name());
        for (i, gradient) in gradients.iter().enumerate() {
            let expected = if i == 0 { dtype } else { DType::F32 };
            assert_eq!(gradient.dtype(), expected, "{what} {shapes:?}: input {i}");
        }
    }
}

/// Runs every recorded case of `op` (`tests/generate_fixtures/ops.py`, f64 in PyTorch) on the inputs that it has of
/// `names`, and compares the output and every gradient.
pub fn pytorch(op: &str, names: &[&str], run: impl Fn(&Tape, &[Option<Tensor>], &Value) -> Result<Tensor>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ops.safetensors");
    let file = Safetensors::open(&path).unwrap();
    let cases: Map<String, Value> = serde_json::from_str(&file.metadata()["cases"]).unwrap();
    let mut count = 0;
    for (case, settings) in cases.iter().filter(|(_, s)| s["op"] == op) {
        let find = |name: &str| {
            let name = format!("{case}.{name}");
            file.contains(&name).then(|| file.tensor(&name).unwrap())
        };
        let inputs: Vec<Option<Tensor>> = names.iter().map(|name| find(name)).collect();
        let tape = Tape::watching(inputs.iter().flatten());
        let y = run(&tape, &inputs, settings).unwrap_or_else(|e| panic!("{case}: {e}"));
        close(&format!("{case}.y"), &y, &find("y").unwrap());
        let gradients = tape.backward_from(&y, find("dy").unwrap()).unwrap();
        for (name, x) in names.iter().zip(&inputs) {
            if let Some(x) = x {
                let name = format!("d{name}");
                close(&format!("{case}.{name}"), gradients.get(x).unwrap(), &find(&name).unwrap());
            }
        }
        count += 1;
    }
    assert!(count > 0, "no cases of {op}");
}

fn close(what: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.shape(), expected.shape(), "{what}");
    let (got, expected) = (got.reals::<f64>(), expected.reals::<f64>());
    let largest = expected.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    for (i, (g, e)) in got.iter().zip(&*expected).enumerate() {
        assert!((g - e).abs() <= 2e-6 * largest, "{what} at {i}: {g}, PyTorch has {e}");
    }
}
