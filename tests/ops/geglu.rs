//! `geglu`, alone and together with its layer.

use selma::autograd::Tape;
use selma::device::Device;
use selma::ops::{self, LinearLayer, LoraLayer, LoraOrder};
use selma::tensor::{DType, Tensor};

use crate::support::{Case, Op, devices, inputs, pytorch};

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

/// A gate in its layer's own pass, with and without a bias, and the gradients of all. The last takes the tall tile.
#[test]
fn gated_layers_on_every_device() {
    for [m, n, k] in [[1, 1, 1], [64, 32, 32], [70, 33, 33], [77, 20, 8], [65, 130, 24], [3, 100, 72]] {
        let (x, w, b) = ([m, k], [2 * n, k], [2 * n]);
        let op = |t: &Tape, x: &[Tensor]| ops::linear_geglu(t, &x[0], &x[1], Some(&x[2]));
        // A GPU's bias is f32.
        let case = Case::new("linear_geglu", &[&x, &w, &b], &op).parameters(2).wide();
        case.differences();
        case.devices_in_norm();
        let op = |t: &Tape, x: &[Tensor]| ops::linear_geglu(t, &x[0], &x[1], None);
        Case::new("linear_geglu without a bias", &[&x, &w], &op).devices_in_norm();
    }
}

/// Rows, widths of x, between and the result, and the rank of both LoRAs.
const NETWORKS: [[usize; 5]; 5] =
    [[1, 1, 1, 1, 1], [70, 24, 40, 16, 8], [77, 33, 20, 9, 3], [5, 8, 136, 16, 4], [1147, 8, 952, 16, 8]];

/// Shapes of residual, x, two weights, four factors and two biases.
fn network([m, c, n, out, rank]: [usize; 5]) -> Vec<Vec<usize>> {
    let firsts = [vec![m, out], vec![m, c], vec![2 * n, c], vec![out, n]];
    let factors = [vec![rank, c], vec![2 * n, rank], vec![rank, n], vec![out, rank]];
    firsts.into_iter().chain(factors).chain([vec![2 * n], vec![out]]).collect()
}

/// Both layers of a network of those tensors, with LoRAs in this order or without.
fn layers(x: &[Tensor], order: Option<LoraOrder>) -> [LinearLayer<'_>; 2] {
    [0, 1].map(|i| {
        let lora = order.map(|order| LoraLayer { a: &x[4 + 2 * i], b: &x[5 + 2 * i], scale: 0.5, order });
        LinearLayer { weight: &x[2 + i], bias: Some(&x[8 + i]), lora }
    })
}

#[test]
fn feed_forward_networks_on_every_device() {
    for sizes in &NETWORKS[..4] {
        let shapes = network(*sizes);
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        for order in [LoraOrder::Factored, LoraOrder::Merged, LoraOrder::Projected] {
            let op = move |t: &Tape, x: &[Tensor]| {
                let [first, second] = layers(x, Some(order));
                ops::gated_feed_forward(t, &x[0], &x[1], first, second)
            };
            let case = Case::new(&format!("gated_feed_forward, {}", order.name()), &shapes, &op).parameters(8).wide();
            case.differences();
            case.threads();
            case.devices_in_norm();
        }
    }
}

/// What lies between is rounded whether or not it is stored, so the bytes are those of layers and gate one after the other.
#[test]
fn a_feed_forward_network_is_its_layers() {
    for device in devices().into_iter().chain([Device::Cpu]) {
        // A GPU's compiler may fuse a product and a sum in one kernel and not in another.
        if matches!(&device, Device::Gpu(gpu) if !gpu.is_simulated()) {
            continue;
        }
        for (sizes, dtype) in
            NETWORKS.into_iter().flat_map(|sizes| [DType::F32, DType::Bf16, DType::F16].map(|d| (sizes, d)))
        {
            let shapes = network(sizes);
            let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
            let mut all = inputs(&shapes, dtype);
            all[8..].iter_mut().for_each(|bias| *bias = bias.cast(DType::F32));
            let x: Vec<Tensor> = all.iter().map(|x| x.to(&device).unwrap()).collect();
            for (watched, order) in
                [(0..10, Some(LoraOrder::Factored)), (1..2, None), (4..8, Some(LoraOrder::Auto)), (0..0, None)]
            {
                // A small frozen layer of the CPU is computed some rows at a time, whose products may have another order.
                if device == Device::Cpu && order.is_none() {
                    continue;
                }
                let run = |op: &dyn Fn(&Tape) -> selma::Result<Tensor>| {
                    let tape = Tape::watching(&x[watched.clone()]);
                    let y = op(&tape).unwrap();
                    let gradients = tape.backward_from(&y, x[0].clone()).unwrap();
                    let bytes = |x: &Tensor| x.to_cpu().unwrap().bytes().to_vec();
                    let gradients = x[watched.clone()].iter().map(|x| bytes(gradients.get(x).unwrap()));
                    gradients.chain([bytes(&y)]).collect::<Vec<_>>()
                };
                let [first, second] = layers(&x, order);
                let together = run(&|tape| ops::gated_feed_forward(tape, &x[0], &x[1], first, second));
                let apart = run(&|tape| {
                    let between = match first.lora {
                        None => ops::linear(tape, &x[1], first.weight, first.bias)?,
                        Some(lora) => ops::lora_linear(tape, &x[1], first.weight, first.bias, lora)?,
                    };
                    let h = ops::geglu(tape, &between)?;
                    ops::linear_residual(tape, &x[0], &h, second.weight, second.bias, second.lora)
                });
                for (i, (together, apart)) in together.iter().zip(&apart).enumerate() {
                    assert!(
                        together == apart,
                        "{sizes:?} in {dtype:?}, {order:?}, {i} of {watched:?} on {}",
                        device.name()
                    );
                }
            }
        }
    }
}

/// On a GPU gate and gradient are part of products, but for rows that are no whole chunks of 16 bytes.
#[test]
fn gates_join_their_layers() {
    for device in devices() {
        let Device::Gpu(gpu) = device else { unreachable!("beside the CPU") };
        let (gpu, launched) = gpu.recorded();
        let device = Device::Gpu(gpu);
        for ([m, c, n, out, rank], joins) in [(NETWORKS[1], true), (NETWORKS[2], false)] {
            let shapes = network([m, c, n, out, rank]);
            let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
            let x: Vec<Tensor> = inputs(&shapes, DType::F32).iter().map(|x| x.to(&device).unwrap()).collect();
            for watched in [0..0, 1..2, 4..8] {
                let tape = Tape::watching(&x[watched.clone()]);
                let [first, second] = layers(&x, Some(LoraOrder::Factored));
                launched.take();
                let y = ops::gated_feed_forward(&tape, &x[0], &x[1], first, second).unwrap();
                let forward = launched.take();
                assert!(forward.contains_key(if joins { "matmul_nt_geglu_small" } else { "matmul_nt_geglu_any" }));
                assert!(!forward.contains_key("geglu_forward"));
                tape.backward_from(&y, x[0].clone()).unwrap();
                let backward = launched.take();
                assert_eq!(backward.contains_key("matmul_nn_geglu_small"), joins && !watched.is_empty());
                assert_eq!(backward.contains_key("geglu_backward"), !joins && !watched.is_empty());
            }
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let tape = Tape::off();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let weights = [[3, 3], [5, 2], [4, 2]].map(|shape| zeros(&shape));
    let layer = |shape: &[usize]| {
        let weight = weights.iter().find(|weight| weight.shape() == shape).unwrap();
        LinearLayer { weight, bias: None, lora: None }
    };
    let failures = [
        ops::geglu(&tape, &zeros(&[3])),
        ops::geglu(&tape, &zeros(&[])),
        ops::geglu(&tape, &Tensor::new(vec![0_i64; 2], &[2])),
        ops::linear_geglu(&tape, &zeros(&[2, 3]), &zeros(&[3, 3]), None),
        ops::linear_geglu(&tape, &zeros(&[2, 4]), &zeros(&[4, 3]), None),
        ops::linear_geglu(&tape, &zeros(&[2, 3]), &zeros(&[4, 3]), Some(&zeros(&[2]))),
        ops::gated_feed_forward(&tape, &zeros(&[2, 5]), &zeros(&[2, 3]), layer(&[3, 3]), layer(&[5, 2])),
        ops::gated_feed_forward(&tape, &zeros(&[2, 5]), &zeros(&[2, 3]), layer(&[4, 2]), layer(&[5, 2])),
    ];
    for failure in failures {
        let error = failure.unwrap_err().to_string();
        assert!(error.contains("geglu") || error.contains("gated_feed_forward"), "{error}");
    }
    for device in devices() {
        let there = |x: &Tensor| x.to(&device).unwrap();
        let error = ops::linear_geglu(&tape, &there(&zeros(&[2, 3])), &zeros(&[4, 3]), None).unwrap_err().to_string();
        assert!(error.contains("linear_geglu") && error.contains(&device.name()), "{error}");
    }
}
