//! The orders of a LoRA's products.

use selma::autograd::Tape;
use selma::device::Device;
use selma::ops::{self, Branch, LoraOrder};
use selma::tensor::{DType, Tensor};

use crate::support::{everywhere, relative_error, tensor};

/// The result and the gradients of x, A and B.
fn run(inputs: &[Tensor], order: LoraOrder) -> Vec<Tensor> {
    let [x, w, a, b, dy] = inputs else { panic!("five inputs") };
    let tape = Tape::watching([x, a, b]);
    let branch = Branch { a, b, scale: 0.5, order };
    let y = ops::lora_linear(&tape, x, w, None, branch).unwrap();
    let gradients = tape.backward_from(&y, dy.clone()).unwrap();
    let found = [x, a, b].map(|x| gradients.get(x).unwrap().to_cpu().unwrap());
    [y.to_cpu().unwrap()].into_iter().chain(found).collect()
}

/// Each order, and the planner's choice, gives what the factored one gives in f64, to the precision of the storage.
#[test]
fn orders_agree() {
    everywhere(|gpu, dtype| {
        let device = Device::Gpu(gpu.clone());
        let bound = match dtype {
            DType::Bf16 => 2f64.powi(-7),
            DType::F16 => 2f64.powi(-10),
            _ => 1e-6,
        };
        for [rows, width, out, rank] in [[1, 8, 5, 1], [77, 33, 70, 4], [130, 72, 40, 8]] {
            let shapes = [[rows, width], [out, width], [rank, width], [out, rank], [rows, out]];
            let stored: Vec<Tensor> = (1..).zip(shapes).map(|(i, shape)| tensor(i, &shape, dtype)).collect();
            let exact: Vec<Tensor> = stored.iter().map(|x| x.cast(DType::F64)).collect();
            let expected = run(&exact, LoraOrder::Factored);
            let there: Vec<Tensor> = stored.iter().map(|x| x.to(&device).unwrap()).collect();
            for (name, order) in LoraOrder::NAMES {
                let pairs = run(&there, order).into_iter().zip(&expected);
                for (what, (got, expected)) in ["y", "dx", "dA", "dB"].iter().zip(pairs) {
                    let error = relative_error(&got, expected);
                    // Written so that NaN fails.
                    assert!(error <= bound, "{name} {dtype:?} {rows}x{width} to {out}: {what} {error:e}");
                }
            }
        }
    });
}

/// Layers of one input: in one launch where they are alike, and the same bytes as one after the other, forward and
/// backward.
#[test]
fn groups_are_their_layers() {
    const RANK: usize = 4;
    everywhere(|gpu, dtype| {
        let (gpu, launched) = gpu.recorded();
        let device = Device::Gpu(gpu);
        for ([rows, width, out], layers) in [([1, 8, 5], 3), ([70, 33, 72], 2), ([77, 40, 24], 3)] {
            let there = |seed, shape: &[usize]| tensor(seed, shape, dtype).to(&device).unwrap();
            let (x, dy) = (there(1, &[1, rows, width]), there(2, &[1, rows, out]));
            let weights: Vec<Tensor> = (0..layers).map(|i| there(3 + i, &[out, width])).collect();
            let factors = |i| (there(6 + i, &[RANK, width]), there(9 + i, &[out, RANK]));
            let factors: Vec<_> = (0..layers).map(factors).collect();
            // Whether a layer has a branch, its scale, and its order; and whether they can go together.
            let orders = LoraOrder::NAMES.map(|(_, order)| (vec![Some((0.5, order)); 3], true));
            let factored = LoraOrder::Factored;
            let unlike = [
                (vec![None; 3], true),
                (vec![None, Some((0.5, factored)), None], false),
                (vec![Some((1.0, factored)), Some((0.5, factored)), Some((0.5, factored))], false),
            ];
            for (branches, together) in orders.into_iter().chain(unlike) {
                let layer = |i: usize| {
                    let (a, b) = &factors[i];
                    let branch = branches[i].map(|(scale, order)| Branch { a, b, scale, order });
                    (&weights[i], branch)
                };
                let all: Vec<_> = (0..layers as usize).map(layer).collect();
                let one = |tape: &Tape, (weight, branch): &(&Tensor, Option<Branch<'_>>)| match branch {
                    None => ops::linear(tape, &x, weight, None).unwrap(),
                    Some(branch) => ops::lora_linear(tape, &x, weight, None, *branch).unwrap(),
                };
                // Results, and gradients of everything that enters.
                let run = |results: &dyn Fn(&Tape) -> Vec<Tensor>| -> Vec<Option<Tensor>> {
                    let parts = factors.iter().flat_map(|(a, b)| [a, b]);
                    let inputs: Vec<&Tensor> = [&x].into_iter().chain(&weights).chain(parts).collect();
                    let tape = Tape::watching(inputs.iter().copied());
                    let results = results(&tape);
                    let (first, others) = results.split_first().unwrap();
                    let add = |sum: Tensor, y: &Tensor| ops::add(&tape, &sum, y).unwrap();
                    let sum = others.iter().fold(first.clone(), add);
                    let gradients = tape.backward_from(&sum, dy.clone()).unwrap();
                    let gradients: Vec<_> = inputs.iter().map(|x| gradients.get(x).cloned()).collect();
                    results.into_iter().map(Some).chain(gradients).collect()
                };
                launched.take();
                let got = run(&|tape| ops::linear_group(tape, &x, &all).unwrap());
                let grouped = launched.take().into_keys().any(|name| name.starts_with("matmul_group"));
                assert_eq!(grouped, together, "{branches:?}");
                let expected = run(&|tape| all.iter().map(|layer| one(tape, layer)).collect());
                for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    let bytes = |x: &Option<Tensor>| x.as_ref().map(|x| x.to_cpu().unwrap().bytes().to_vec());
                    assert!(bytes(got) == bytes(expected), "{dtype:?} {branches:?}: {i} differs");
                }
            }
        }
    });
}
