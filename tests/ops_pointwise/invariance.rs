//! What must not change the result: the number of threads at all, 16-bit storage but for rounding.

use rayon::ThreadPoolBuilder;
use selma::autograd::Tape;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{cases, values};

fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

#[test]
fn threads_do_not_change_a_byte() {
    for case in cases() {
        let run = || {
            let (y, gradients) = case.run(&case.inputs(DType::F32));
            let all = std::iter::once(&y).chain(&gradients);
            all.map(|x| x.bytes().to_vec()).collect::<Vec<_>>()
        };
        let one = on_threads(1, run);
        for threads in [2, 8] {
            assert!(on_threads(threads, run) == one, "{} on {threads} threads", case.name);
        }
    }
}

/// Sizes of many chunks, where the partition matters.
#[test]
fn threads_do_not_change_large_sums() {
    let run = || {
        let x = Tensor::new(values(2 * 40 * 40 * 12, 1), &[2, 40, 40, 12]).cast(DType::F32);
        let w = Tensor::new(values(12, 2), &[12]).cast(DType::F32);
        let tape = Tape::watching([&x, &w]);
        let y = ops::group_norm(&tape, &x, &w, &w, 4, 1e-5, true).unwrap();
        let rows = ops::reshape(&tape, &y, &[2, 1600, 12]).unwrap();
        let y = ops::attention(&tape, &rows, &rows, &rows, 2, false).unwrap();
        let y = ops::layer_norm(&tape, &y, &w, &w, 1e-5).unwrap();
        let weights = Tensor::new(vec![1.0_f32, 0.5], &[2]);
        let loss = ops::weighted_mse(&tape, &y, &ops::scale(&Tape::off(), &rows, 0.5).unwrap(), &weights).unwrap();
        let gradients = tape.backward(&loss).unwrap();
        let norm = ops::optimizer::squared_norm(gradients.get(&x).unwrap().data());
        (
            loss.bytes().to_vec(),
            gradients.get(&x).unwrap().bytes().to_vec(),
            gradients.get(&w).unwrap().bytes().to_vec(),
            norm.to_bits(),
        )
    };
    let one = on_threads(1, run);
    assert!(on_threads(2, run) == one);
    assert!(on_threads(8, run) == one);
}

/// 16-bit tensors are computed in f32 and rounded once, so they differ from f32 on the same values by that rounding.
#[test]
fn sixteen_bits_round_once() {
    for dtype in [DType::Bf16, DType::F16] {
        for case in cases() {
            let inputs = case.inputs(dtype);
            let wide: Vec<Tensor> = inputs.iter().map(|x| x.cast(DType::F32)).collect();
            let y = (case.op)(&Tape::off(), &inputs).unwrap();
            let expected = (case.op)(&Tape::off(), &wide).unwrap();
            assert_eq!(y.bytes(), expected.cast(y.dtype()).bytes(), "{} in {}", case.name, dtype.name());
        }
    }
}

#[test]
fn gradients_have_the_documented_dtypes() {
    for case in cases() {
        let inputs = case.inputs(DType::Bf16);
        let (_, gradients) = case.run(&inputs);
        let table = case.name.starts_with("embedding");
        for (x, gradient) in inputs.iter().zip(gradients) {
            let expected = if table { x.dtype().accumulator() } else { x.dtype() };
            assert_eq!(gradient.dtype(), expected, "{}", case.name);
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let tape = Tape::off();
    let rows = Tensor::zeros(&[2, 9, 6], DType::F32);
    let failures = [ops::attention(&tape, &rows, &rows, &rows, 4, false)];
    for failure in failures {
        assert!(!failure.unwrap_err().to_string().is_empty());
    }
}
