//! What the checks share: deterministic values, and the checks that hold for any op.

use std::path::Path;

use rayon::ThreadPoolBuilder;
use selma::Result;
use selma::autograd::Tape;
use selma::device::Device;
use selma::device::gpu::{Checks, Gpu, Order};
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

/// An op that is linear in each input, of which all but the first are parameters: the checks of [`Case::check`].
pub fn check(what: &str, shapes: &[&[usize]], op: Op) {
    Case::new(what, shapes, op).linear().parameters(1).check();
}

/// [`Case::threads`] of an op.
pub fn threads(what: &str, shapes: &[&[usize]], op: Op) {
    Case::new(what, shapes, op).threads();
}

/// An op on inputs of these shapes, and what is special about it.
#[derive(Clone)]
pub struct Case<'a> {
    what: String,
    shapes: Vec<Vec<usize>>,
    op: Op<'a>,
    linear: bool,
    parameters: usize,
    wide: bool,
    offset: f64,
}

impl<'a> Case<'a> {
    pub fn new(what: &str, shapes: &[&[usize]], op: Op<'a>) -> Self {
        let shapes: Vec<Vec<usize>> = shapes.iter().map(|shape| shape.to_vec()).collect();
        let (what, parameters) = (format!("{what} of {shapes:?}"), shapes.len());
        Self { what, shapes, op, linear: false, parameters, wide: false, offset: 0.0 }
    }

    /// The result is linear in each input: a central difference is exact but for rounding.
    pub fn linear(self) -> Self {
        Self { linear: true, ..self }
    }

    /// The inputs from number `first` on are parameters: their gradients are f32 where the rest is stored in 16 bits.
    pub fn parameters(self, first: usize) -> Self {
        Self { parameters: first, ..self }
    }

    /// Parameters are f32 themselves where the rest is stored in 16 bits, as those of norms.
    pub fn wide(self) -> Self {
        Self { wide: true, ..self }
    }

    /// Values of the first input are about `offset`.
    pub fn around(self, offset: f64) -> Self {
        Self { offset, ..self }
    }

    fn inputs(&self, dtype: DType) -> Vec<Tensor> {
        let input = |(i, shape): (usize, &Vec<usize>)| {
            let mut values = values(shape.iter().product(), i as u64 + 1);
            if i == 0 {
                values.iter_mut().for_each(|x| *x += self.offset);
            }
            let x = Tensor::new(values, shape).cast(dtype);
            if self.wide && i >= self.parameters { x.cast(dtype.master_dtype()) } else { x }
        };
        self.shapes.iter().enumerate().map(input).collect()
    }

    fn all(&self) -> Vec<usize> {
        (0..self.shapes.len()).collect()
    }

    /// The output, and the gradients of the watched inputs for [`values`] as the gradient of the output.
    fn run(&self, inputs: &[Tensor], watched: &[usize]) -> (Tensor, Vec<Tensor>) {
        let tape = Tape::watching(watched.iter().map(|&i| &inputs[i]));
        let y = (self.op)(&tape, inputs).unwrap_or_else(|e| panic!("{}: {e}", self.what));
        let dy = Tensor::new(values(y.len(), 99), y.shape()).cast(y.dtype()).to(&y.device()).unwrap();
        let mut gradients = tape.backward_from(&y, dy).unwrap_or_else(|e| panic!("{}: {e}", self.what));
        let gradients = watched.iter().map(|&i| gradients.remove(&inputs[i]).expect("every watched input"));
        (y, gradients.collect())
    }

    /// Every check on the CPU that needs no recorded numbers.
    pub fn check(&self) {
        self.differences();
        self.one_at_a_time(&self.inputs(DType::F32));
        self.threads();
        self.sixteen_bits();
    }

    /// Gradients against central differences in f64. A few elements of each input tell: a wrong formula is wrong nearly
    /// everywhere.
    pub fn differences(&self) {
        let (step, tolerance) = if self.linear { (0.5, 1e-10) } else { (1e-5, 1e-6) };
        let inputs = self.inputs(DType::F64);
        let (y, gradients) = self.run(&inputs, &self.all());
        let dy = values(y.len(), 99);
        let loss = |inputs: &[Tensor]| -> f64 {
            let y = (self.op)(&Tape::off(), inputs).unwrap();
            y.data::<f64>().iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        };
        for (i, gradient) in gradients.iter().enumerate() {
            assert_eq!(gradient.shape(), inputs[i].shape(), "{}: input {i}", self.what);
            let stride = (gradient.len() / 48).max(1);
            for at in (0..gradient.len()).step_by(stride) {
                let moved = |by: f64| {
                    let mut data = inputs[i].data::<f64>().to_vec();
                    data[at] += by;
                    let mut inputs = inputs.clone();
                    inputs[i] = Tensor::new(data, inputs[i].shape());
                    loss(&inputs)
                };
                let expected = (moved(step) - moved(-step)) / (2.0 * step);
                let got = gradient.data::<f64>()[at];
                assert!(
                    (got - expected).abs() <= tolerance * (1.0 + expected.abs()),
                    "{}: d input {i} at {at}: {got}, differences say {expected}",
                    self.what
                );
            }
        }
    }

    /// Watching one input gives the same gradient as watching all, and no other.
    fn one_at_a_time(&self, inputs: &[Tensor]) {
        let bytes = |x: &Tensor| x.to_cpu().unwrap().bytes().to_vec();
        let (_, gradients) = self.run(inputs, &self.all());
        for (i, gradient) in gradients.iter().enumerate() {
            let (_, alone) = self.run(inputs, &[i]);
            assert_eq!(bytes(&alone[0]), bytes(gradient), "{}: input {i}", self.what);
        }
    }

    /// Any number of threads gives the same bytes.
    pub fn threads(&self) {
        let inputs = self.inputs(DType::F32);
        let on = |threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (y, gradients) = pool.install(|| self.run(&inputs, &self.all()));
            let bytes = |x: &Tensor| x.bytes().to_vec();
            std::iter::once(&y).chain(&gradients).map(bytes).collect::<Vec<_>>()
        };
        let one = on(1);
        for threads in [2, 8] {
            assert!(on(threads) == one, "{}: {threads} threads", self.what);
        }
    }

    /// 16-bit tensors are computed in f32 and rounded once; the gradients of parameters stay f32.
    fn sixteen_bits(&self) {
        for dtype in [DType::Bf16, DType::F16] {
            let narrow = self.inputs(dtype);
            let wide: Vec<Tensor> = narrow.iter().map(|x| x.cast(DType::F32)).collect();
            let (y, gradients) = self.run(&narrow, &self.all());
            let expected = (self.op)(&Tape::off(), &wide).unwrap();
            // A loss is a scalar of the accumulator dtype.
            assert_eq!(y.bytes(), expected.cast(y.dtype()).bytes(), "{} in {}", self.what, dtype.name());
            for (i, gradient) in gradients.iter().enumerate() {
                let expected = if i < self.parameters { dtype } else { DType::F32 };
                assert_eq!(gradient.dtype(), expected, "{}: input {i}", self.what);
            }
        }
    }

    /// On every device of this build and in each storage type, the output and every gradient are the CPU's: within one
    /// rounding to the storage type, and what sums of so many `terms` lose in another order, for the output and for each
    /// input.
    pub fn devices(&self, terms: &[usize]) {
        assert_eq!(terms.len(), 1 + self.shapes.len(), "{}: the output and each input", self.what);
        self.on_devices(false, |what, _, i, got, expected| near(what, got, expected, terms[i]));
    }

    /// [`Case::devices`] within `shares` of the largest value in f32, bf16 and f16.
    pub fn devices_within(&self, shares: [f64; 3]) {
        self.on_devices(false, |what, dtype, _, got, expected| near_within(what, got, expected, shares[dtype]));
    }

    /// On every device of this build and in each storage type, the output and every gradient are what the CPU gives in f64
    /// for the same inputs, to the precision of the storage by the norm of the difference: for ops that round what lies
    /// between.
    pub fn devices_in_norm(&self) {
        let bounds = [1e-6, 2f64.powi(-7), 2f64.powi(-10)];
        self.on_devices(true, |what, dtype, _, got, expected| {
            assert_eq!(got.shape(), expected.shape(), "{what}");
            let got = got.to_cpu().unwrap();
            let (got, expected) = (got.reals::<f64>(), expected.reals::<f64>());
            let difference: f64 = got.iter().zip(&*expected).map(|(a, b)| (a - b) * (a - b)).sum();
            let error = (difference / expected.iter().map(|b| b * b).sum::<f64>()).sqrt();
            // Written so that NaN fails.
            assert!(error <= bounds[dtype], "{what}: {error:e}");
        });
    }

    /// Calls `compare` with what it is, the number of the storage type, the number of the output or gradient, and its values
    /// on a device and on the CPU, there in f64 where `exact`.
    fn on_devices(&self, exact: bool, compare: impl Fn(&str, usize, usize, &Tensor, &Tensor)) {
        for device in devices() {
            for (number, dtype) in [DType::F32, DType::Bf16, DType::F16].into_iter().enumerate() {
                let stored = self.inputs(dtype);
                let there: Vec<Tensor> = stored.iter().map(|x| x.to(&device).unwrap()).collect();
                let wide = |x: &Tensor| if exact { x.cast(DType::F64) } else { x.clone() };
                let here: Vec<Tensor> = stored.iter().map(wide).collect();
                let (expected, expected_gradients) = self.run(&here, &self.all());
                let (got, gradients) = self.run(&there, &self.all());
                let expected = std::iter::once(&expected).chain(&expected_gradients);
                let got = std::iter::once(&got).chain(&gradients);
                for (i, (got, expected)) in got.zip(expected).enumerate() {
                    let name = if i == 0 { "y".to_owned() } else { format!("d input {}", i - 1) };
                    let what = format!("{} on {} in {}, {name}", self.what, device.name(), dtype.name());
                    compare(&what, number, i, got, expected);
                }
                // Ops that round between may round elsewhere for other gradients.
                if dtype == DType::F32 && !exact {
                    self.one_at_a_time(&there);
                }
            }
        }
    }
}

/// The devices of this build beside the CPU: the simulator, which checks every access, with the threads in both orders;
/// and an NVIDIA GPU where there is one, or where `SELMA_TEST_DEVICE=cuda` says that there must be.
pub fn devices() -> Vec<Device> {
    let mut gpus = Vec::new();
    if cfg!(feature = "simulator") {
        gpus.extend([Order::Forwards, Order::Backwards].map(|order| Gpu::simulator(Checks::On, order).unwrap()));
    }
    match std::env::var("SELMA_TEST_DEVICE").as_deref() {
        Ok("cuda") => gpus.push(Gpu::cuda(0).unwrap()),
        _ => gpus.extend(Gpu::cuda(0)),
    }
    gpus.into_iter().map(Device::Gpu).collect()
}

/// That a kernel's result is the CPU's: see [`Case::devices`].
pub fn near(what: &str, got: &Tensor, expected: &Tensor, terms: usize) {
    near_within(what, got, expected, 2f64.powi(-23) * (1.0 + (terms as f64).sqrt()));
}

/// That a kernel's result is the CPU's: within one rounding to the storage type, and `share` of the largest value.
pub fn near_within(what: &str, got: &Tensor, expected: &Tensor, share: f64) {
    let dtype = expected.dtype();
    assert_eq!((got.dtype(), got.shape()), (dtype, expected.shape()), "{what}");
    let got = got.to_cpu().unwrap();
    let (got, expected) = (got.reals::<f64>(), expected.reals::<f64>());
    // The distance of neighbours relative to the value, and among subnormals; of f32 a few, since functions differ.
    let (unit, least) = match dtype {
        DType::Bf16 => (2f64.powi(-7), 0.0),
        DType::F16 => (2f64.powi(-10), 2f64.powi(-24)),
        _ => (2f64.powi(-21), 0.0),
    };
    let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    for (i, (&got, &expected)) in got.iter().zip(&*expected).enumerate() {
        let limit = unit * expected.abs() + least + share * largest;
        let error = (got - expected).abs();
        // Written so that NaN fails.
        assert!(error <= limit, "{what} [{i}]: {got}, expected {expected}: {error:e} > {limit:e}");
    }
}

/// What PyTorch gives in f64 (`tests/generate_fixtures/ops.py`).
pub struct Fixtures {
    file: Safetensors,
    cases: Map<String, Value>,
}

pub fn fixtures() -> Fixtures {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ops.safetensors");
    let file = Safetensors::open(&path).unwrap();
    let cases = serde_json::from_str(&file.metadata()["cases"]).unwrap();
    Fixtures { file, cases }
}

impl Fixtures {
    /// The cases of an op and their settings.
    pub fn of(&self, op: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.cases.iter().filter(move |(_, settings)| settings["op"] == op)
    }

    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        self.file.contains(name).then(|| self.file.tensor(name).unwrap())
    }
}

/// Runs every recorded case of `op` (`tests/generate_fixtures/ops.py`, f64 in PyTorch) on the inputs that it has of
/// `names`, and compares the output and every gradient: within `tolerance` times the largest value, or times 1 where that
/// is larger.
pub fn pytorch(
    op: &str,
    names: &[&str],
    tolerance: f64,
    run: impl Fn(&Tape, &[Option<Tensor>], &Value) -> Result<Tensor>,
) {
    let fixtures = fixtures();
    let mut count = 0;
    for (case, settings) in fixtures.of(op) {
        let find = |name: &str| fixtures.tensor(&format!("{case}.{name}"));
        let inputs: Vec<Option<Tensor>> = names.iter().map(|name| find(name)).collect();
        let gradient_of = |name: &str| find(&format!("d{name}"));
        let watched =
            || names.iter().zip(&inputs).filter_map(|(name, x)| Some((name, x.as_ref()?, gradient_of(name)?)));
        let tape = Tape::watching(watched().map(|(_, x, _)| x));
        let y = run(&tape, &inputs, settings).unwrap_or_else(|e| panic!("{case}: {e}"));
        close(&format!("{case}.y"), &y, &find("y").unwrap(), tolerance);
        if let Some(dy) = find("dy") {
            let gradients = tape.backward_from(&y, dy.with_shape(y.shape())).unwrap();
            for (name, x, expected) in watched() {
                close(&format!("{case}.d{name}"), gradients.get(x).unwrap(), &expected, tolerance);
            }
        }
        count += 1;
    }
    assert!(count > 0, "no cases of {op}");
}

/// Compares with an error allowed of `tolerance` times the largest expected value, or times 1 where that is larger.
pub fn close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: {:?} and {:?}", got.shape(), expected.shape());
    let (got, expected) = (got.reals::<f64>(), expected.reals::<f64>());
    let largest = expected.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    for (i, (g, e)) in got.iter().zip(&*expected).enumerate() {
        assert!((g - e).abs() <= tolerance * largest, "{what} at {i}: {g}, PyTorch has {e}");
    }
}
