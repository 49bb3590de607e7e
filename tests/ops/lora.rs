//! `lora_linear`.

use selma::autograd::Tape;
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
