//! `conv2d.cu`.

use selma::autograd::Tape;
use selma::device::gpu::conv2d::{Added, Conv2d};
use selma::ops::{self, Padding};
use selma::tensor::{DType, Tensor};

use crate::support::{close, everywhere, gradients, tensor, upload};

const UNEVEN: Padding = Padding { top: 0, left: 2, bottom: 1, right: 3 };

/// Kernels, strides and paddings of the networks and some of none; channels below, at and between multiples of 16 bytes.
fn convolutions() -> Vec<Conv2d> {
    let geometries = [
        ([1, 1], 1, Padding::all(0)),
        ([3, 3], 1, Padding::all(1)),
        ([3, 3], 2, Padding::all(1)),
        ([3, 3], 2, Padding { top: 0, left: 0, bottom: 1, right: 1 }),
        ([2, 5], 3, UNEVEN),
    ];
    let sizes = [(1, 5, 7, 4, 6), (2, 8, 9, 16, 72), (1, 12, 11, 40, 8)];
    let mut all = Vec::new();
    for ([kh, kw], stride, padding) in geometries {
        for (n, h, w, c_in, c_out) in sizes {
            all.push(Conv2d { n, h, w, c_in, c_out, kh, kw, stride, padding, doubled: false });
        }
    }
    all
}

#[test]
fn convolutions_and_their_gradients() {
    everywhere(|gpu, dtype| {
        for conv in convolutions() {
            let Conv2d { n, h, w, c_in, c_out, .. } = conv;
            let [ho, wo] = conv.output().unwrap();
            let x = tensor(1, &[n, h, w, c_in], dtype);
            let weight = tensor(2, &[c_out, conv.kh, conv.kw, c_in], dtype);
            let (bias, dy) = (tensor(3, &[c_out], DType::F32), tensor(4, &[n, ho, wo, c_out], dtype));
            let [x_gpu, weight_gpu, bias_gpu, dy_gpu] = [&x, &weight, &bias, &dy].map(|t| upload(gpu, t));
            let what = format!("{conv:?}");
            let op = |tape: &Tape| ops::conv2d(tape, &x, &weight, Some(&bias), conv.stride, conv.padding);
            let added = Added { bias: Some(&bias_gpu), ..Added::default() };
            let terms = conv.kh * conv.kw * c_in;
            let y = conv.forward(&x_gpu, &weight_gpu, added).unwrap();
            close(&what, &y, &op(&Tape::off()).unwrap(), terms);
            let expected = gradients(&[&x, &weight], &dy, op);
            let dx = conv.dgrad(&dy_gpu, &weight_gpu).unwrap();
            close(&format!("{what}, dx"), &dx, &expected[0], conv.kh * conv.kw * c_out);
            let dweight = conv.wgrad(&dy_gpu, &x_gpu).unwrap();
            close(&format!("{what}, dweight"), &dweight, &expected[1], n * ho * wo);
        }
    });
}

/// The time embedding and the residual of a ResNet, and the upsampling that is never stored, with its weights' gradient.
#[test]
fn what_a_convolution_takes_along() {
    everywhere(|gpu, dtype| {
        let conv = Conv2d {
            n: 2,
            h: 6,
            w: 10,
            c_in: 24,
            c_out: 20,
            kh: 3,
            kw: 3,
            stride: 1,
            padding: Padding::all(1),
            doubled: true,
        };
        let x = tensor(1, &[2, 3, 5, 24], dtype);
        let weight = tensor(2, &[20, 3, 3, 24], dtype);
        let (t, residual) = (tensor(3, &[2, 20], dtype), tensor(4, &[2, 6, 10, 20], dtype));
        let [x_gpu, weight_gpu, t_gpu, residual_gpu] = [&x, &weight, &t, &residual].map(|t| upload(gpu, t));
        // In f32, since the kernel rounds only the result.
        let [x, wide_weight, t, wide_residual] = [&x, &weight, &t, &residual].map(|t| t.cast(DType::F32));
        let op = |tape: &Tape| {
            let large = ops::upsample_nearest(tape, &x, 6, 10)?;
            ops::conv2d(tape, &large, &wide_weight, None, 1, Padding::all(1))
        };
        let off = Tape::off();
        let sum = ops::add_channel_bias(&off, &op(&off).unwrap(), &t).unwrap();
        let expected = ops::add(&off, &sum, &wide_residual).unwrap().cast(dtype);
        let added = Added { bias: None, t: Some(&t_gpu), residual: Some(&residual_gpu) };
        let y = conv.forward(&x_gpu, &weight_gpu, added).unwrap();
        close("upsampled, with t and residual", &y, &expected, 9 * 24);
        let expected: Vec<Tensor> = gradients(&[&wide_weight], &wide_residual, op);
        let dweight = conv.wgrad(&residual_gpu, &x_gpu).unwrap();
        close("upsampled, dweight", &dweight, &expected[0], 120);
    });
}

/// Sizes that take the large tile, and pixels in several slices.
#[test]
fn large_tiles() {
    everywhere(|gpu, dtype| {
        let conv = Conv2d {
            n: 1,
            h: 65,
            w: 65,
            c_in: 8,
            c_out: 8,
            kh: 2,
            kw: 1,
            stride: 1,
            padding: Padding::all(0),
            doubled: false,
        };
        // One output of 64 x 65 pixels is 33 large tiles high; four pictures of them are enough.
        let conv = Conv2d { n: 4, ..conv };
        let x = tensor(1, &[4, 65, 65, 8], dtype);
        let weight = tensor(2, &[8, 2, 1, 8], dtype);
        let dy = tensor(3, &[4, 64, 65, 8], dtype);
        let [x_gpu, weight_gpu, dy_gpu] = [&x, &weight, &dy].map(|t| upload(gpu, t));
        let op = |tape: &Tape| ops::conv2d(tape, &x, &weight, None, 1, Padding::all(0));
        let y = conv.forward(&x_gpu, &weight_gpu, Added::default()).unwrap();
        close("large", &y, &op(&Tape::off()).unwrap(), 16);
        let expected = gradients(&[&x, &weight], &dy, op);
        close("large, dx", &conv.dgrad(&dy_gpu, &weight_gpu).unwrap(), &expected[0], 16);
        close("large, dweight", &conv.wgrad(&dy_gpu, &x_gpu).unwrap(), &expected[1], 4 * 64 * 65);
    });
}

#[test]
fn kernels_larger_than_the_picture_are_refused() {
    let conv = Conv2d {
        n: 1,
        h: 2,
        w: 2,
        c_in: 1,
        c_out: 1,
        kh: 3,
        kw: 3,
        stride: 1,
        padding: Padding::all(0),
        doubled: false,
    };
    let error = conv.output().unwrap_err().to_string();
    assert!(error.contains("has no output"), "{error}");
}
