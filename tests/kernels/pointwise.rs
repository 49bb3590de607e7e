//! `elementwise.cu`.

use selma::autograd::Tape;
use selma::device::gpu::elementwise::{self, Activation};
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{close, download, everywhere, gradients, tensor, upload};

const LENGTHS: [usize; 6] = [1, 7, 8, 255, 2048, 4099];

#[test]
fn activations_and_their_gradients() {
    type Op = fn(&Tape, &Tensor) -> selma::Result<Tensor>;
    let functions: [(Activation, Op); 3] =
        [(Activation::Silu, ops::silu), (Activation::Gelu, ops::gelu), (Activation::QuickGelu, ops::quick_gelu)];
    everywhere(|gpu, dtype| {
        for n in LENGTHS {
            let (x, dy) = (tensor(1, &[n], dtype), tensor(2, &[n], dtype));
            // Also far from zero, where the functions are flat or steep.
            let x = ops::scale(&Tape::off(), &x, 4.0).unwrap();
            let (x_gpu, dy_gpu) = (upload(gpu, &x), upload(gpu, &dy));
            for (activation, op) in functions {
                let what = format!("{activation:?} of {n}");
                let y = elementwise::activation(activation, &x_gpu).unwrap();
                close(&what, &y, &op(&Tape::off(), &x).unwrap(), 1);
                let dx = elementwise::activation_backward(activation, &dy_gpu, &x_gpu).unwrap();
                let expected = gradients(&[&x], &dy, |tape| op(tape, &x));
                close(&format!("{what}, gradient"), &dx, &expected[0], 1);
            }
        }
    });
}

#[test]
fn sums_and_multiples() {
    everywhere(|gpu, dtype| {
        for n in LENGTHS {
            let (x, y) = (tensor(1, &[n], dtype), tensor(2, &[n], dtype));
            let (x_gpu, y_gpu) = (upload(gpu, &x), upload(gpu, &y));
            let sum = elementwise::add(&x_gpu, &y_gpu).unwrap();
            close("add", &sum, &ops::add(&Tape::off(), &x, &y).unwrap(), 1);
            let scaled = elementwise::scale(&x_gpu, 0.3).unwrap();
            close("scale", &scaled, &ops::scale(&Tape::off(), &x, 0.3).unwrap(), 1);
            let limited = elementwise::clamp(&x_gpu, -0.5, 1.25).unwrap();
            close("clamp", &limited, &ops::clamp(&x, -0.5, 1.25).unwrap(), 0);
        }
    });
}

/// A view that begins where 16-byte loads may not.
#[test]
fn views_at_odd_places() {
    everywhere(|gpu, dtype| {
        let x = tensor(1, &[300], dtype);
        let view = upload(gpu, &x).view(3, 290);
        let y = elementwise::activation(Activation::Silu, &view).unwrap();
        close("silu of a view", &y, &ops::silu(&Tape::off(), &x.view(3, &[290])).unwrap(), 1);
    });
}

#[test]
fn rounding_to_a_storage_type_and_back() {
    everywhere(|gpu, dtype| {
        for n in LENGTHS {
            let x = tensor(1, &[n], DType::F32);
            let stored = elementwise::cast(&upload(gpu, &x), dtype).unwrap();
            assert_eq!(download(&stored, &[n]).bytes(), x.cast(dtype).bytes());
            let back = download(&elementwise::cast(&stored, DType::F32).unwrap(), &[n]);
            assert_eq!(back.bytes(), x.cast(dtype).cast(DType::F32).bytes());
        }
        let ids = gpu.buffer(DType::I64, 1).unwrap();
        let error = elementwise::cast(&ids, dtype).unwrap_err().to_string();
        assert!(error.contains("i64"), "{error}");
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
fn one_value_a_channel() {
    everywhere(|gpu, dtype| {
        for [n, h, w, c] in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 4, 4, 40]] {
            let (x, t) = (tensor(1, &[n, h, w, c], dtype), tensor(2, &[n, c], dtype));
            let (x_gpu, t_gpu) = (upload(gpu, &x), upload(gpu, &t));
            let y = elementwise::add_channel_bias(&x_gpu, &t_gpu, [n, h * w, c]).unwrap();
            close("add_channel_bias", &y, &ops::add_channel_bias(&Tape::off(), &x, &t).unwrap(), 1);
        }
    });
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    everywhere(|gpu, dtype| {
        let buffer = |n| gpu.buffer(dtype, n).unwrap();
        let message = elementwise::add(&buffer(3), &buffer(4)).unwrap_err().to_string();
        assert!(message.contains("expected 3"), "{message}");
        let message = elementwise::geglu(&buffer(10), 2, 3).unwrap_err().to_string();
        assert!(message.contains("`x` has 10 elements; expected 12"), "{message}");
    });
}
