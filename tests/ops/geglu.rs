//! `geglu`, alone and together with its layer.

use selma::autograd::Tape;
use selma::device::Device;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{Case, Op, devices, inputs, near, pytorch};

const GEGLU: Op = &|t, x| ops::geglu(t, &x[0]);

#[test]
fn equals_pytorch() {
    pytorch("geglu", &["x"], 1e-6, |tape, x, _| ops::geglu(tape, x[0].as_ref().unwrap()));
}

#[test]
fn holds_at_awkward_sizes() {
    for shape in [&[3, 5, 14][..], &[1, 2], &[9, 4098]] {
        Case::new("geglu", &[shape], GEGLU).check();
    }
}

#[test]
fn every_device_agrees() {
    for (rows, width) in [(1, 1), (3, 7), (5, 8), (33, 40), (2, 1280)] {
        Case::new("geglu", &[&[rows, 2 * width]], GEGLU).devices(&[1, 1]);
    }
}

/// To the last bit, also where several tasks share the rows, and for a layer too large to be computed with its gate.
#[test]
fn a_layer_computed_with_its_gate_is_the_same_as_before_it() {
    for (rows, inner, width) in [(1, 1, 2), (700, 24, 256), (9, 130, 600)] {
        for dtype in [DType::F32, DType::F64, DType::Bf16] {
            let x = inputs(&[&[rows, inner], &[width, inner], &[width], &[rows, width / 2]], dtype);
            let gradient = |op: &dyn Fn(&Tape) -> selma::Result<Tensor>| {
                let tape = Tape::watching([&x[0]]);
                let y = op(&tape).unwrap();
                let gradients = tape.backward_from(&y, x[3].clone()).unwrap();
                (y.bytes().to_vec(), gradients.get(&x[0]).unwrap().bytes().to_vec())
            };
            let apart = gradient(&|tape| ops::geglu(tape, &ops::linear(tape, &x[0], &x[1], Some(&x[2]))?));
            let together = gradient(&|tape| ops::linear_geglu(tape, &x[0], &x[1], Some(&x[2])));
            assert!(together == apart, "{rows} rows of {inner} to {width}, {dtype:?}");
        }
    }
}

/// `v gelu(g)` of `[v, g] = x W^T + b` in one pass, with and without a bias: as the layer and its gate in f32, rounded
/// once. The last takes the large tile.
#[test]
fn gated_layers_on_every_device() {
    let large = [128 * 9 - 5, 64 * 15 - 8, 40];
    for [m, n, k] in [[1, 1, 1], [64, 32, 32], [70, 33, 33], [77, 20, 8], [65, 130, 24], [3, 100, 72], large] {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let x = inputs(&[&[m, k], &[2 * n, k]], dtype);
            let bias = &inputs(&[&[2 * n]], DType::F32)[0];
            for bias in [None, Some(bias)] {
                let wide = |x: &Tensor| x.cast(DType::F32);
                let layer = ops::linear(&Tape::off(), &wide(&x[0]), &wide(&x[1]), bias).unwrap();
                let expected = ops::geglu(&Tape::off(), &layer).unwrap().cast(dtype);
                for device in devices() {
                    let there = [&x[0], &x[1]].map(|x| x.to(&device).unwrap());
                    let bias = bias.map(|bias| bias.to(&device).unwrap());
                    let y = ops::linear_geglu(&Tape::off(), &there[0], &there[1], bias.as_ref()).unwrap();
                    let what = format!("{m}x{n} over {k} on {} in {}", device.name(), dtype.name());
                    near(&what, &y, &expected, 2 * k);
                }
            }
        }
    }
}

/// A frozen layer is gated in its own pass; where a gradient is wanted, its gate is apart and has one.
#[test]
fn a_gate_joins_its_layer_where_no_gradient_is_wanted() {
    for device in devices() {
        let Device::Gpu(gpu) = device else { unreachable!("beside the CPU") };
        let (gpu, launched) = gpu.recorded();
        let device = Device::Gpu(gpu);
        let here = inputs(&[&[2, 5, 24], &[32, 24], &[32]], DType::F32);
        let there: Vec<Tensor> = here.iter().map(|x| x.to(&device).unwrap()).collect();
        let gated = |tape: &Tape, x: &[Tensor]| ops::linear_geglu(tape, &x[0], &x[1], Some(&x[2])).unwrap();
        let expected = gated(&Tape::off(), &here);
        for (tape, kernels) in [
            (Tape::off(), &["matmul_nt_geglu_small"][..]),
            (Tape::watching(&there[..1]), &["geglu_forward", "matmul_nt_small"]),
            (Tape::watching(&there[1..2]), &["geglu_forward", "matmul_nt_small"]),
        ] {
            launched.take();
            let y = gated(&tape, &there);
            assert_eq!(launched.take().into_keys().collect::<Vec<_>>(), kernels);
            near("gated", &y, &expected, 48);
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let tape = Tape::off();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let failures = [
        ops::geglu(&tape, &zeros(&[3])),
        ops::geglu(&tape, &zeros(&[])),
        ops::geglu(&tape, &Tensor::new(vec![0_i64; 2], &[2])),
        ops::linear_geglu(&tape, &zeros(&[2, 3]), &zeros(&[3, 3]), None),
        ops::linear_geglu(&tape, &zeros(&[2, 4]), &zeros(&[4, 3]), None),
        ops::linear_geglu(&tape, &zeros(&[2, 3]), &zeros(&[4, 3]), Some(&zeros(&[2]))),
    ];
    for failure in failures {
        let error = failure.unwrap_err().to_string();
        assert!(error.contains("geglu"), "{error}");
    }
    for device in devices() {
        let there = |x: &Tensor| x.to(&device).unwrap();
        let error = ops::linear_geglu(&tape, &there(&zeros(&[2, 3])), &zeros(&[4, 3]), None).unwrap_err().to_string();
        assert!(error.contains("linear_geglu") && error.contains(&device.name()), "{error}");
    }
}
