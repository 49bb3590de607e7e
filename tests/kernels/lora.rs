//! The orders of a LoRA's products.

use selma::autograd::Tape;
use selma::device::Device;
use selma::ops::{self, Branch, LoraOrder};
use selma::tensor::{DType, Tensor};

use crate::support::{everywhere, relative_error, tensor};

/// The result and the gradients of x, A and B.
fn run(inputs: &[Tensor], order: LoraOrder) -> Vec<Tensor> {
    let [x, w, a, b, dy] = inputs else {
        panic!("five inputs")
    };
    let tape = Tape::watching([x, a, b]);
    let branch = Branch {
        a,
        b,
        scale: 0.5,
        order,
    };
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
                    assert!(
                        error <= bound,
                        "{name} {dtype:?} {rows}x{width} to {out}: {what} {error:e}"
                    );
                }
            }
        }
    });
}
