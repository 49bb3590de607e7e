//! `linear`, and layers of one input at once.

use selma::autograd::Tape;
use selma::device::Device;
use selma::ops::{self, LoraLayer, LoraOrder};
use selma::tensor::{DType, Tensor};

use crate::matmul::SIZES;
use crate::support::{Case, Op, check, devices, inputs, pytorch, threads};

const WITH_BIAS: Op = &|t, x| ops::linear(t, &x[0], &x[1], Some(&x[2]));

#[test]
fn equals_pytorch() {
    pytorch("linear", &["x", "w", "b"], 2e-6, |tape, x, _| {
        ops::linear(tape, x[0].as_ref().unwrap(), x[1].as_ref().unwrap(), x[2].as_ref())
    });
}

/// Sizes around one, a vector and a tile, in each dimension.
#[test]
fn holds_at_awkward_sizes() {
    let sizes = [(1, 1, 1), (1, 37, 5), (13, 1, 31), (17, 33, 1), (97, 15, 19), (7, 70, 65), (25, 257, 9), (3, 5, 261)];
    for (rows, out, width) in sizes {
        let (x, w, b) = ([rows, width], [out, width], [out]);
        check("linear", &[&x, &w, &b], WITH_BIAS);
        check("linear without bias", &[&x, &w], &|t, x| ops::linear(t, &x[0], &x[1], None));
    }
}

/// Long enough in every dimension to be cut into several tiles and blocks.
#[test]
fn threads_do_not_change_large_products() {
    threads("linear", &[&[2, 301, 530], &[277, 530], &[277]], WITH_BIAS);
}

/// Also where the gradients of weight and bias are sums of several slices, and of slices of slices.
#[test]
fn every_device_agrees() {
    let long = [[1500, 8, 40], [515, 130, 65], [16_500, 3, 1]];
    for [rows, out, width] in SIZES.into_iter().chain(long) {
        // A GPU's bias is f32.
        let case = Case::new("linear", &[&[rows, width], &[out, width], &[out]], WITH_BIAS).parameters(2).wide();
        case.devices(&[width, out, rows, rows]);
    }
}

#[test]
fn a_residual_is_added() {
    for [rows, width, out] in [[1, 8, 5], [70, 33, 72]] {
        let (x, w, y) = ([rows, width], [out, width], [rows, out]);
        let op = |t: &Tape, x: &[Tensor]| ops::linear_residual(t, &x[0], &x[1], &x[2], Some(&x[3]), None);
        let case = Case::new("linear with a residual", &[&y, &x, &w, &[out]], &op).linear().parameters(3).wide();
        case.differences();
        case.threads();
        case.devices_in_norm();
    }
}

/// What another op gave to the gradient of x is added to the product.
#[test]
fn adds_to_a_gradient_that_is_there() {
    for [rows, width] in [[5, 9], [70, 72]] {
        let op = |t: &Tape, x: &[Tensor]| {
            let second = ops::linear(t, &x[0], &x[2], None)?;
            ops::add(t, &ops::add(t, &ops::linear(t, &x[0], &x[1], None)?, &second)?, &x[0])
        };
        let weight = [width, width];
        let case = Case::new("linear plus x", &[&[rows, width], &weight, &weight], &op).parameters(1);
        case.differences();
        case.threads();
        case.devices_in_norm();
    }
}

/// The norm of the difference, as a share of that of the second.
fn distance(got: &Tensor, expected: &Tensor) -> f64 {
    let [got, expected] = [got, expected].map(|x| x.to_cpu().unwrap().reals::<f64>().into_owned());
    let difference: f64 = got.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum();
    (difference / expected.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// Layers of one input: in one launch where they are alike, and the same bytes as one after the other, forward and
/// backward; but the gradient of the input is the sum of all products, which is rounded once, and that of each LoRA's hidden
/// values, which A's is made of, may be summed in another order.
#[test]
fn groups_are_their_layers() {
    const RANK: usize = 4;
    for device in devices() {
        let Device::Gpu(gpu) = device else { unreachable!("beside the CPU") };
        let (gpu, launched) = gpu.recorded();
        let device = Device::Gpu(gpu);
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            // The last takes the large tile, which one of its layers alone would not.
            let sizes = [
                ([1, 8, 5], 3),
                ([70, 33, 72], 2),
                ([77, 40, 24], 3),
                ([77, 24, 40], 8),
                ([128 * 9 - 40, 8, 128 * 5 - 8], 3),
            ];
            for ([rows, width, out], layers) in sizes {
                let (one, large) = ([rows, width], rows > 1000);
                let mut shapes = vec![&one[..]];
                let [weight, a, b] = [[out, width], [RANK, width], [out, RANK]];
                shapes.extend([&weight[..], &a, &b].into_iter().flat_map(|shape| vec![shape; layers]));
                let dy = [rows, out];
                shapes.push(&dy);
                let all = inputs(&shapes, dtype).iter().map(|x| x.to(&device).unwrap()).collect::<Vec<_>>();
                let (x, dy) = (&all[0], all.last().unwrap());
                let [weights, a, b] = [0, 1, 2].map(|i| &all[1 + i * layers..][..layers]);
                // Whether a layer has a LoRA, its scale, and its order; and whether they can go together.
                let orders = LoraOrder::NAMES.map(|(_, order)| (vec![Some((0.5, order)); layers], true));
                let factored = LoraOrder::Factored;
                let unlike = [
                    (vec![None; layers], true),
                    ([None, Some((0.5, factored))].repeat(layers), false),
                    ([Some((1.0, factored)), Some((0.5, factored))].repeat(layers), false),
                ];
                let ways = orders.into_iter().chain(unlike);
                let small = |(loras, _): &(Vec<Option<(f64, LoraOrder)>>, bool)| {
                    !large || loras[0].is_some_and(|(scale, order)| scale == 0.5 && order == factored)
                };
                for (loras, together) in ways.filter(small) {
                    let layer = |i: usize| {
                        let lora = |(scale, order)| LoraLayer { a: &a[i], b: &b[i], scale, order };
                        (&weights[i], loras[i].map(lora))
                    };
                    let group: Vec<_> = (0..layers).map(layer).collect();
                    let one = |tape: &Tape, (weight, lora): &(&Tensor, Option<LoraLayer<'_>>)| match lora {
                        None => ops::linear(tape, x, weight, None).unwrap(),
                        Some(lora) => ops::lora_linear(tape, x, weight, None, *lora).unwrap(),
                    };
                    // Results, and gradients of everything that enters.
                    let run = |results: &dyn Fn(&Tape) -> Vec<Tensor>| -> Vec<Option<Tensor>> {
                        let tape = Tape::watching(&all[..all.len() - 1]);
                        let results = results(&tape);
                        let (first, others) = results.split_first().unwrap();
                        let add = |sum: Tensor, y: &Tensor| ops::add(&tape, &sum, y).unwrap();
                        let sum = others.iter().fold(first.clone(), add);
                        let gradients = tape.backward_from(&sum, dy.clone()).unwrap();
                        let gradients: Vec<_> = all.iter().map(|x| gradients.get(x).cloned()).collect();
                        results.into_iter().map(Some).chain(gradients).collect()
                    };
                    launched.take();
                    let got = run(&|tape| ops::linear_group(tape, x, &group).unwrap());
                    let grouped = launched.take().into_keys().any(|name| name.starts_with("matmul_group"));
                    assert_eq!(grouped, together, "{loras:?}");
                    let expected = run(&|tape| group.iter().map(|layer| one(tape, layer)).collect());
                    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                        let what = format!("{rows}x{width}, {dtype:?} {loras:?}: {i} differs");
                        let (of_x, of_a) = (layers, 1 + 2 * layers..1 + 3 * layers);
                        if together && loras[0].is_some() && (i == of_x || of_a.contains(&i)) {
                            let error = distance(got.as_ref().unwrap(), expected.as_ref().unwrap());
                            assert!(
                                error <= if dtype == DType::F32 { 1e-6 } else { 2f64.powi(-7) },
                                "{what} by {error:e}"
                            );
                            continue;
                        }
                        let bytes = |x: &Option<Tensor>| x.as_ref().map(|x| x.to_cpu().unwrap().bytes().to_vec());
                        assert!(bytes(got) == bytes(expected), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let tape = Tape::off();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let (x, w) = (zeros(&[2, 3]), zeros(&[4, 3]));
    let mut failures = vec![
        ops::linear(&tape, &zeros(&[2, 4]), &w, None),
        ops::linear(&tape, &zeros(&[]), &w, None),
        ops::linear(&tape, &x, &zeros(&[4, 3, 1]), None),
        ops::linear(&tape, &x, &w, Some(&zeros(&[3]))),
        ops::linear(&tape, &Tensor::new(vec![0_i64; 6], &[2, 3]), &w, None),
        ops::linear_residual(&tape, &zeros(&[2, 3]), &x, &w, None, None),
        ops::linear_residual(&tape, &zeros(&[2, 4]).cast(DType::Bf16), &x, &w, None, None),
        ops::linear_group(&tape, &zeros(&[2, 4]), &[(&w, None), (&w, None)]).map(|mut all| all.remove(0)),
    ];
    for device in devices() {
        let there = |x: &Tensor| x.to(&device).unwrap();
        failures.push(ops::linear(&tape, &there(&x), &w, None));
        failures.push(ops::linear(&tape, &there(&x), &there(&w), Some(&zeros(&[4]))));
        failures.push(ops::linear_residual(&tape, &zeros(&[2, 4]), &there(&x), &there(&w), None, None));
        let group = [(&there(&w), None), (&there(&w), None)];
        failures.push(ops::linear_group(&tape, &there(&zeros(&[2, 4])), &group).map(|mut all| all.remove(0)));
    }
    for failure in failures {
        let error = failure.unwrap_err().to_string();
        assert!(error.contains("linear"), "{error}");
    }
}
