//! `lora_linear`.

use selma::autograd::Tape;
use selma::device::Device;
use selma::ops::{self, LoraLayer, LoraOrder};
use selma::tensor::{DType, Tensor};

use crate::support::{Case, check, devices, inputs, pytorch};

fn lora<'a>(a: &'a Tensor, b: &'a Tensor, scale: f64) -> LoraLayer<'a> {
    LoraLayer { a, b, scale, order: LoraOrder::Factored }
}

#[test]
fn equals_pytorch() {
    pytorch("lora_linear", &["x", "w", "b", "a", "b_lora"], 2e-6, |tape, x, settings| {
        let [x, w, b, a, b_lora] = [0, 1, 2, 3, 4].map(|i| x[i].as_ref());
        let scale = settings["scale"].as_f64().unwrap();
        ops::lora_linear(tape, x.unwrap(), w.unwrap(), b, lora(a.unwrap(), b_lora.unwrap(), scale))
    });
}

/// Sizes around one, a vector and a tile, in each dimension.
#[test]
fn holds_at_awkward_sizes() {
    let sizes = [(1, 1, 1), (1, 37, 5), (13, 1, 31), (17, 33, 1), (97, 15, 19), (7, 70, 65), (25, 257, 9), (3, 5, 261)];
    for (rows, out, width) in sizes {
        for rank in [1, 6] {
            let shapes: [&[usize]; 5] = [&[rows, width], &[out, width], &[out], &[rank, width], &[out, rank]];
            check("lora_linear", &shapes, &|t, x| {
                ops::lora_linear(t, &x[0], &x[1], Some(&x[2]), lora(&x[3], &x[4], -0.7))
            });
        }
    }
}

/// Whatever is tracked, all orders give the same result and gradients.
#[test]
fn orders_agree() {
    for [rows, out, width, rank] in [[1, 1, 1, 1], [13, 31, 17, 6], [70, 9, 65, 4], [3, 130, 20, 40]] {
        let x = inputs(&[&[rows, width], &[out, width], &[out], &[rank, width], &[out, rank]], DType::F64);
        for tracked in [vec![0, 1, 2, 3, 4], vec![3, 4], vec![0, 3], vec![4], vec![0]] {
            let run = |order| {
                let tape = Tape::watching(tracked.iter().map(|&i| &x[i]));
                let lora = LoraLayer { order, ..lora(&x[3], &x[4], -0.7) };
                let y = ops::lora_linear(&tape, &x[0], &x[1], Some(&x[2]), lora).unwrap();
                let mut gradients = tape.backward_from(&y, y.clone()).unwrap();
                let gradients = tracked.iter().map(|&i| gradients.remove(&x[i]).unwrap());
                gradients.chain([y.clone()]).collect::<Vec<_>>()
            };
            let factored = run(LoraOrder::Factored);
            for (name, order) in LoraOrder::NAMES {
                for (got, expected) in run(order).iter().zip(&factored) {
                    assert_eq!(got.shape(), expected.shape());
                    for (got, expected) in got.data::<f64>().iter().zip(expected.data::<f64>()) {
                        let error = (got - expected).abs();
                        assert!(error <= 1e-11, "{name} {rows}x{width} to {out}: {got}, {expected}");
                    }
                }
            }
        }
    }
}

/// In every order, without and with a bias and a residual.
#[test]
fn every_device_agrees() {
    for [rows, width, out, rank] in [[1, 8, 5, 1], [77, 33, 70, 4], [130, 72, 40, 8]] {
        let (x, w, a, b) = ([rows, width], [out, width], [rank, width], [out, rank]);
        for (name, order) in LoraOrder::NAMES {
            let alone = |t: &Tape, x: &[Tensor]| {
                ops::lora_linear(t, &x[0], &x[1], None, LoraLayer { order, ..lora(&x[2], &x[3], 0.5) })
            };
            Case::new(&format!("lora_linear, {name},"), &[&x, &w, &a, &b], &alone).devices_in_norm();
            let with_all = |t: &Tape, x: &[Tensor]| {
                let lora = LoraLayer { order, ..lora(&x[3], &x[4], 0.5) };
                ops::linear_residual(t, &x[0], &x[1], &x[2], Some(&x[5]), Some(lora))
            };
            let shapes: [&[usize]; 6] = [&[rows, out], &x, &w, &a, &b, &[out]];
            // A GPU's bias is f32.
            Case::new(&format!("with bias and residual, {name},"), &shapes, &with_all)
                .parameters(5)
                .wide()
                .devices_in_norm();
        }
    }
}

/// Layers of one weight, the first of x and the others of half of it, which has no gradient: factors, and the layers' sum.
fn layers_in_sum(t: &Tape, x: &[Tensor], layers: usize) -> selma::Result<Tensor> {
    let half = ops::scale(&Tape::off(), &x[0], 0.5)?;
    let one = |i: usize| {
        let input = if i == 0 { &x[0] } else { &half };
        ops::lora_linear(t, input, &x[1], None, lora(&x[2 + 2 * i], &x[3 + 2 * i], 0.5))
    };
    (1..layers).try_fold(one(0)?, |sum, i| ops::add(t, &sum, &one(i)?))
}

/// Gradients of the factors of several layers alike: as many as go together, fewer, more, and of sizes that go alone.
#[test]
fn factors_of_many_layers_on_every_device() {
    for (layers, [rows, width, out, rank]) in
        [(2, [9, 16, 8, 8]), (4, [77, 40, 24, 16]), (6, [600, 24, 40, 8]), (3, [70, 33, 72, 4])]
    {
        let factors = [[rank, width], [out, rank]].repeat(layers);
        let all = [[rows, width], [out, width]].into_iter().chain(factors).collect::<Vec<_>>();
        let shapes: Vec<&[usize]> = all.iter().map(|shape| &shape[..]).collect();
        let op = |t: &Tape, x: &[Tensor]| layers_in_sum(t, x, layers);
        Case::new("layers in a sum", &shapes, &op).devices_in_norm();
    }
}

/// On a GPU the factors of four layers alike get their gradients in one launch; those that another op computed get them in
/// time for that op.
#[test]
fn factors_wait_for_others_alike() {
    const LAYERS: usize = 6;
    for device in devices() {
        let Device::Gpu(gpu) = device else { unreachable!("beside the CPU") };
        let (gpu, launched) = gpu.recorded();
        let device = Device::Gpu(gpu);
        let shapes: Vec<[usize; 2]> =
            [[64, 16], [24, 16]].into_iter().chain([[8, 16], [24, 8]].repeat(LAYERS)).collect();
        let shapes: Vec<&[usize]> = shapes.iter().map(|shape| &shape[..]).collect();
        let x: Vec<Tensor> = inputs(&shapes, DType::Bf16).iter().map(|x| x.to(&device).unwrap()).collect();
        let tape = Tape::watching(&x[2..]);
        let y = layers_in_sum(&tape, &x, LAYERS).unwrap();
        launched.take();
        let dy = Tensor::full(y.shape(), 1.0, DType::Bf16).to(&device).unwrap();
        let together = tape.backward_from(&y, dy.clone()).unwrap();
        let count = launched.take();
        // Without a gradient of x all six are alike: four and two.
        assert_eq!([count["matmul_tn_group_small"], count["matmul_nn_group_small"]], [2, 2], "{count:?}");
        assert!(!count.keys().any(|name| name.starts_with("matmul_tn_small")), "{count:?}");
        // The same with factors that are half of others: all that a leaf's gradient depends on is made when it is needed.
        let doubled: Vec<Tensor> = x.iter().map(|x| ops::scale(&Tape::off(), x, 2.0).unwrap()).collect();
        let tape = Tape::watching(&doubled[2..]);
        let factors = doubled[2..].iter().map(|factor| ops::scale(&tape, factor, 0.5).unwrap());
        let halved: Vec<Tensor> = x[..2].iter().cloned().chain(factors).collect();
        let y = layers_in_sum(&tape, &halved, LAYERS).unwrap();
        let apart = tape.backward_from(&y, dy).unwrap();
        for (i, (x, doubled)) in x.iter().zip(&doubled).enumerate().skip(2) {
            let (got, expected) = (together.get(x).unwrap(), apart.get(doubled).unwrap());
            let (got, expected) = (got.to_cpu().unwrap(), expected.to_cpu().unwrap());
            let pairs =
                got.reals::<f64>().iter().copied().zip(expected.reals::<f64>().iter().copied()).collect::<Vec<_>>();
            let largest = pairs.iter().fold(0_f64, |most, (got, _)| most.max(got.abs()));
            for (got, expected) in pairs {
                assert!((0.5 * got - expected).abs() <= 0.01 * largest, "{i}: half of {got}, {expected}");
            }
        }
    }
}

/// A LoRA with b = 0 adds nothing, and is exactly the layer without it.
#[test]
fn a_fresh_lora_changes_nothing() {
    let x = inputs(&[&[5, 40], &[24, 40], &[24], &[4, 40]], DType::F32);
    let tape = Tape::off();
    let plain = ops::linear(&tape, &x[0], &x[1], Some(&x[2])).unwrap();
    let zero = Tensor::zeros(&[24, 4], DType::F32);
    let adapted = ops::lora_linear(&tape, &x[0], &x[1], Some(&x[2]), lora(&x[3], &zero, 2.0)).unwrap();
    assert_eq!(plain.bytes(), adapted.bytes());
}

#[test]
fn wrong_shapes_are_errors() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let refused = |x: &Tensor, w: &Tensor, a: &Tensor, b: &Tensor| {
        let error = ops::lora_linear(&Tape::off(), x, w, None, lora(a, b, 1.0)).unwrap_err().to_string();
        assert!(error.contains("lora_linear"), "{error}");
        error
    };
    let (x, w, a, b) = (zeros(&[2, 3]), zeros(&[4, 3]), zeros(&[2, 3]), zeros(&[4, 2]));
    refused(&zeros(&[2, 4]), &w, &a, &b);
    assert!(refused(&x, &w, &zeros(&[2, 4]), &b).contains("expected [rank, 3] and [4, rank]"));
    refused(&x, &w, &a, &zeros(&[4, 1]));
    for device in devices() {
        assert!(refused(&x, &w, &a.to(&device).unwrap(), &b).contains(&device.name()));
    }
}
