//! `linear` and `lora_linear`.

use selma::autograd::Tape;
use selma::ops::{self, Branch, LoraOrder};
use selma::tensor::{DType, Tensor};

use crate::support::{check, inputs, pytorch, threads};

fn branch<'a>(a: &'a Tensor, b: &'a Tensor, scale: f64) -> Branch<'a> {
    Branch { a, b, scale, order: LoraOrder::Factored }
}

#[test]
fn equals_pytorch() {
    pytorch("linear", &["x", "w", "b"], 2e-6, |tape, x, _| {
        ops::linear(tape, x[0].as_ref().unwrap(), x[1].as_ref().unwrap(), x[2].as_ref())
    });
    pytorch("lora_linear", &["x", "w", "b", "a", "b_lora"], 2e-6, |tape, x, settings| {
        let [x, w, b, a, b_lora] = [0, 1, 2, 3, 4].map(|i| x[i].as_ref());
        let scale = settings["scale"].as_f64().unwrap();
        ops::lora_linear(tape, x.unwrap(), w.unwrap(), b, branch(a.unwrap(), b_lora.unwrap(), scale))
    });
}

/// Sizes around one, a vector and a tile, in each dimension.
#[test]
fn holds_at_awkward_sizes() {
    let sizes = [(1, 1, 1), (1, 37, 5), (13, 1, 31), (17, 33, 1), (97, 15, 19), (7, 70, 65), (25, 257, 9), (3, 5, 261)];
    for (rows, out, width) in sizes {
        let (x, w, b) = ([rows, width], [out, width], [out]);
        check("linear", &[&x, &w, &b], &|t, x| ops::linear(t, &x[0], &x[1], Some(&x[2])));
        check("linear without bias", &[&x, &w], &|t, x| ops::linear(t, &x[0], &x[1], None));
        for rank in [1, 6] {
            let (a, b_lora) = ([rank, width], [out, rank]);
            check("lora_linear", &[&x, &w, &b, &a, &b_lora], &|t, x| {
                ops::lora_linear(t, &x[0], &x[1], Some(&x[2]), branch(&x[3], &x[4], -0.7))
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
                let branch = Branch { order, ..branch(&x[3], &x[4], -0.7) };
                let y = ops::lora_linear(&tape, &x[0], &x[1], Some(&x[2]), branch).unwrap();
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

/// Long enough in every dimension to be cut into several tiles and blocks.
#[test]
fn threads_do_not_change_large_products() {
    threads("linear", &[&[2, 301, 530], &[277, 530], &[277]], &|t, x| ops::linear(t, &x[0], &x[1], Some(&x[2])));
}

/// A branch with b = 0 adds nothing, and is exactly the layer without it.
#[test]
fn a_fresh_branch_changes_nothing() {
    let x = inputs(&[&[5, 40], &[24, 40], &[24], &[4, 40]], DType::F32);
    let tape = Tape::off();
    let plain = ops::linear(&tape, &x[0], &x[1], Some(&x[2])).unwrap();
    let zero = Tensor::zeros(&[24, 4], DType::F32);
    let adapted = ops::lora_linear(&tape, &x[0], &x[1], Some(&x[2]), branch(&x[3], &zero, 2.0)).unwrap();
    assert_eq!(plain.bytes(), adapted.bytes());
}

#[test]
fn wrong_shapes_are_errors() {
    let tape = Tape::off();
    let t = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let (x, w) = (t(&[2, 3]), t(&[4, 3]));
    let failures = [
        ops::linear(&tape, &t(&[2, 4]), &w, None),
        ops::linear(&tape, &t(&[]), &w, None),
        ops::linear(&tape, &x, &t(&[4, 3, 1]), None),
        ops::linear(&tape, &x, &w, Some(&t(&[3]))),
        ops::lora_linear(&tape, &x, &w, None, branch(&t(&[2, 4]), &t(&[4, 2]), 1.0)),
        ops::lora_linear(&tape, &x, &w, None, branch(&t(&[2, 3]), &t(&[4, 1]), 1.0)),
        ops::linear_geglu(&tape, &t(&[2, 4]), &w, None),
    ];
    for failure in failures {
        assert!(failure.unwrap_err().to_string().contains("linear"));
    }
}
