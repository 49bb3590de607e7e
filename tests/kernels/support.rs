//! What the checks share.

use selma::device::Device;
use selma::device::gpu::{Buffer, Checks, Gpu, Order};
use selma::tensor::{DType, Tensor};

/// Calls `check` for each order of the threads, and an NVIDIA GPU where there is one, in each storage type.
pub fn everywhere(check: impl Fn(&Gpu, DType)) {
    let simulators = [Order::Forwards, Order::Backwards].map(|order| Gpu::simulator(Checks::On, order).unwrap());
    for gpu in simulators.into_iter().chain(Gpu::cuda(0)) {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            check(&gpu, dtype);
        }
    }
}

/// Values in [-2, 2) that look random and are the same everywhere.
pub fn tensor(seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f32 / (1_u64 << 51) as f32 - 2.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(next).collect();
    Tensor::new(values, shape).cast(dtype)
}

/// The elements of a tensor in a GPU's memory.
pub fn upload(gpu: &Gpu, x: &Tensor) -> Buffer {
    x.to(&Device::Gpu(gpu.clone())).unwrap().memory().unwrap()
}

pub fn download(memory: &Buffer, shape: &[usize]) -> Tensor {
    Tensor::on_gpu(memory.clone(), shape).to_cpu().unwrap()
}

pub fn floats(values: &[f32]) -> Tensor {
    Tensor::new(values.to_vec(), &[values.len()])
}

/// That a kernel's result is the CPU's: within one rounding to the storage type, and what sums of `terms` float
/// products lose in another order, seen from the largest value.
pub fn close(what: &str, got: &Buffer, expected: &Tensor, terms: usize) {
    close_within(what, got, expected, 2f64.powi(-23) * (1.0 + (terms as f64).sqrt()));
}

/// That a kernel's result is the CPU's: within one rounding to the storage type, and `share` of the largest value.
pub fn close_within(what: &str, got: &Buffer, expected: &Tensor, share: f64) {
    let dtype = expected.dtype();
    assert_eq!(got.dtype(), dtype, "{what}");
    let got = download(got, expected.shape());
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
        assert!(error <= limit, "{what} {dtype:?} [{i}]: {got}, expected {expected}: {error:e} > {limit:e}");
    }
}
