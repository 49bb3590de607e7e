//! What of `elementwise.cu` has no file in `tests/ops` yet.

use selma::autograd::Tape;
use selma::device::gpu::elementwise;
use selma::ops;

use crate::support::{close, everywhere, gradients, tensor, upload};

const LENGTHS: [usize; 6] = [1, 7, 8, 255, 2048, 4099];

#[test]
fn limits() {
    everywhere(|gpu, dtype| {
        for n in LENGTHS {
            let x = tensor(1, &[n], dtype);
            let limited = elementwise::clamp(&upload(gpu, &x), -0.5, 1.25).unwrap();
            close("clamp", &limited, &ops::clamp(&x, -0.5, 1.25).unwrap(), 0);
        }
    });
}

#[test]
fn geglu_and_its_gradient() {
    everywhere(|gpu, dtype| {
        for (rows, width) in [(1, 1), (3, 7), (5, 8), (33, 40), (2, 1280)] {
            let (x, dy) = (tensor(1, &[rows, 2 * width], dtype), tensor(2, &[rows, width], dtype));
            let (x_gpu, dy_gpu) = (upload(gpu, &x), upload(gpu, &dy));
            let y = elementwise::geglu(&x_gpu, rows, width).unwrap();
            close("geglu", &y, &ops::geglu(&Tape::off(), &x).unwrap(), 1);
            let dx = elementwise::geglu_backward(&dy_gpu, &x_gpu, rows, width).unwrap();
            let expected = gradients(&[&x], &dy, |tape| ops::geglu(tape, &x));
            close("geglu, gradient", &dx, &expected[0], 1);
        }
    });
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    everywhere(|gpu, dtype| {
        let buffer = |n| gpu.buffer(dtype, n).unwrap();
        let message = elementwise::geglu(&buffer(10), 2, 3).unwrap_err().to_string();
        assert!(message.contains("`x` has 10 elements; expected 12"), "{message}");
    });
}
