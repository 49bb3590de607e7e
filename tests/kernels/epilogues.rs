//! What layers add to their results in the same pass.

use selma::autograd::Tape;
use selma::device::Device;
use selma::nn::{Conv2d, LoraBranch, Param};
use selma::ops::{self, LoraOrder, Padding, Plus};
use selma::tensor::{DType, Tensor};

use crate::support::{everywhere, relative_error, tensor};

type Op<'a> = &'a dyn Fn(&Tape, &[Tensor]) -> selma::Result<Tensor>;

/// The result of `op` and the gradients of all its inputs.
fn run(op: Op<'_>, inputs: &[Tensor], dy: &Tensor) -> Vec<Tensor> {
    let tape = Tape::watching(inputs);
    let y = op(&tape, inputs).unwrap();
    let gradients = tape.backward_from(&y, dy.clone()).unwrap();
    let found = inputs.iter().map(|x| gradients.get(x).unwrap());
    std::iter::once(&y).chain(found).map(|x| x.to_cpu().unwrap()).collect()
}

/// That the GPU gives what the CPU gives in f64, to the precision of the storage. The last shape is the result's, the
/// `vector`th input a bias.
fn agrees(what: &str, shapes: &[&[usize]], vector: usize, op: Op<'_>) {
    everywhere(|gpu, dtype| {
        let device = Device::Gpu(gpu.clone());
        let stored = (1..).zip(shapes).enumerate();
        let stored: Vec<Tensor> = stored
            .map(|(i, (seed, shape))| tensor(seed, shape, if i == vector { DType::F32 } else { dtype }))
            .collect();
        let exact: Vec<Tensor> = stored.iter().map(|x| x.cast(DType::F64)).collect();
        let there: Vec<Tensor> = stored.iter().map(|x| x.to(&device).unwrap()).collect();
        let last = shapes.len() - 1;
        let expected = run(op, &exact[..last], &exact[last]);
        let bound = match dtype {
            DType::Bf16 => 2f64.powi(-7),
            DType::F16 => 2f64.powi(-10),
            _ => 1e-6,
        };
        for (i, (got, expected)) in run(op, &there[..last], &there[last]).iter().zip(&expected).enumerate() {
            let error = relative_error(got, expected);
            // Written so that NaN fails.
            assert!(error <= bound, "{what} {dtype:?}: {i}: {error:e}");
        }
    });
}

#[test]
fn convolutions_add_a_time_embedding_and_another_tensor() {
    let (x, w, t, y): ([_; 4], [_; 4], _, [_; 4]) = ([2, 5, 3, 4], [9, 3, 3, 4], [2, 9], [2, 5, 3, 9]);
    let conv = |tape: &Tape, x: &[Tensor], plus: Plus<'_>| {
        ops::conv2d_plus(tape, &x[0], &x[1], Some(&x[2]), 1, Padding::all(1), plus)
    };
    agrees("both", &[&x, &w, &[9], &t, &y, &y], 2, &|tape, x| {
        let plus = Plus { t: Some(&x[3]), onto: Some(&x[4]) };
        conv(tape, x, plus)
    });
    agrees("t", &[&x, &w, &[9], &t, &y], 2, &|tape, x| {
        let plus = Plus { t: Some(&x[3]), onto: None };
        conv(tape, x, plus)
    });
}

#[test]
fn convolutions_add_their_lora_and_what_else_there_is() {
    for (stride, [ho, wo], scale) in [(1, [5, 3], 1.0), (2, [3, 2], 0.3)] {
        let (x, w, t, y): ([_; 4], [_; 4], _, [_; 4]) = ([2, 5, 3, 4], [9, 3, 3, 4], [2, 9], [2, ho, wo, 9]);
        let shapes: [&[usize]; 8] = [&x, &w, &[9], &[3, 3, 3, 4], &[9, 3], &t, &y, &y];
        let conv = |tape: &Tape, x: &[Tensor], plus: Plus<'_>| {
            let param = |i: usize| Param::new("", x[i].clone());
            let lora = LoraBranch { down: param(3), up: param(4), scale, order: LoraOrder::Auto };
            let conv = Conv2d {
                name: String::new(),
                weight: param(1),
                bias: param(2),
                stride,
                padding: Padding::all(1),
                lora: Some(lora),
            };
            conv.forward_plus(tape, &x[0], plus)
        };
        agrees("convolution with a LoRA", &shapes, 2, &|tape, x| {
            let plus = Plus { t: Some(&x[5]), onto: Some(&x[6]) };
            conv(tape, x, plus)
        });
        let shapes: [&[usize]; 6] = [&x, &w, &[9], &[3, 3, 3, 4], &[9, 3], &y];
        agrees("convolution with nothing but a LoRA", &shapes, 2, &|tape, x| conv(tape, x, Plus::default()));
    }
}
