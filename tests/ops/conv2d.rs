//! `conv2d`.

use selma::autograd::Tape;
use selma::nn::{Conv2d, LoraWeights, Param};
use selma::ops::{self, Epilogue, LoraOrder, Padding};
use selma::tensor::{DType, Tensor};

use crate::support::{Case, check, devices, inputs, pytorch, threads, values};

const UNEVEN: Padding = Padding { top: 0, left: 2, bottom: 1, right: 3 };

#[test]
fn equals_pytorch() {
    pytorch("conv2d", &["x", "w", "b"], 2e-6, |tape, x, settings| {
        let number = |key: &str| settings[key].as_u64().unwrap() as usize;
        let padding = Padding {
            top: number("pad_top"),
            left: number("pad_left"),
            bottom: number("pad_bottom"),
            right: number("pad_right"),
        };
        let [x, w, b] = [0, 1, 2].map(|i| x[i].as_ref());
        ops::conv2d(tape, x.unwrap(), w.unwrap(), b, number("stride"), padding)
    });
}

/// Kernels, strides and paddings that no model has, on images that they do not fit evenly.
#[test]
fn holds_for_any_geometry() {
    let geometries = [
        ([1, 1], 1, Padding::all(0)),
        ([1, 1], 2, Padding::all(0)),
        ([3, 3], 1, Padding::all(1)),
        ([3, 3], 2, Padding::all(1)),
        ([3, 3], 2, Padding { top: 0, left: 0, bottom: 1, right: 1 }),
        ([2, 5], 1, UNEVEN),
        ([4, 2], 3, UNEVEN),
        ([3, 3], 1, Padding::all(4)),
        ([2, 2], 3, Padding::all(0)),
    ];
    for (kernel, stride, padding) in geometries {
        // The last two are multiplied where they are instead of gathered, both ways and forward only.
        for (n, h, w, c_in, c_out) in
            [(2, 7, 9, 5, 7), (1, 5, 4, 1, 3), (3, 4, 6, 18, 1), (2, 3, 5, 16, 16), (1, 4, 3, 17, 48)]
        {
            let shapes: [&[usize]; 3] = [&[n, h, w, c_in], &[c_out, kernel[0], kernel[1], c_in], &[c_out]];
            let what = format!("conv2d {stride} {padding:?}");
            check(&what, &shapes, &|t, x| ops::conv2d(t, &x[0], &x[1], Some(&x[2]), stride, padding));
            check(&what, &shapes[..2], &|t, x| ops::conv2d(t, &x[0], &x[1], None, stride, padding));
        }
    }
}

/// More pixels and channels than one tile or block holds.
#[test]
fn threads_do_not_change_large_convolutions() {
    for (stride, padding) in [(1, Padding::all(1)), (2, Padding::all(1))] {
        for (c_in, c_out) in [(40, 37), (48, 32)] {
            threads("conv2d", &[&[2, 27, 29, c_in], &[c_out, 3, 3, c_in], &[c_out]], &|t, x| {
                ops::conv2d(t, &x[0], &x[1], Some(&x[2]), stride, padding)
            });
        }
    }
}

/// Kernels, strides and paddings of the networks and some of none; channels below, at and between multiples of 16 bytes.
#[test]
fn every_device_agrees() {
    let geometries = [
        ([1, 1], 1, Padding::all(0)),
        ([3, 3], 1, Padding::all(1)),
        ([3, 3], 2, Padding::all(1)),
        ([3, 3], 2, Padding { top: 0, left: 0, bottom: 1, right: 1 }),
        ([2, 5], 3, UNEVEN),
    ];
    for ([kh, kw], stride, padding) in geometries {
        for (n, h, w, c_in, c_out) in [(1, 5, 7, 4, 6), (2, 8, 9, 16, 72), (1, 12, 11, 40, 8)] {
            let shapes: [&[usize]; 3] = [&[n, h, w, c_in], &[c_out, kh, kw, c_in], &[c_out]];
            let op = |t: &Tape, x: &[Tensor]| ops::conv2d(t, &x[0], &x[1], Some(&x[2]), stride, padding);
            let case = Case::new(&format!("conv2d {stride} {padding:?}"), &shapes, &op);
            let (taps, pixels) = (kh * kw, n * h * w);
            // A GPU's bias is f32.
            case.parameters(2).wide().devices(&[taps * c_in, taps * c_out, pixels, pixels]);
        }
    }
}

/// Sizes that take the large tile, and pixels in several slices.
#[test]
fn every_device_agrees_on_large_tiles() {
    // One output of 64 x 65 pixels is 33 large tiles high; four images of them are enough.
    let shapes: [&[usize]; 2] = [&[4, 65, 65, 8], &[8, 2, 1, 8]];
    let op = |t: &Tape, x: &[Tensor]| ops::conv2d(t, &x[0], &x[1], None, 1, Padding::all(0));
    Case::new("conv2d", &shapes, &op).devices(&[16, 16, 4 * 64 * 65]);
}

/// Few pixels of many channels, whose sums go in slices of k, forward and backward.
#[test]
fn every_device_agrees_on_long_sums_of_few_pixels() {
    let (n, h, w, c_in, c_out) = (2, 5, 6, 128, 96);
    let shapes: [&[usize]; 4] = [&[n, h, w, c_in], &[c_out, 3, 3, c_in], &[n, h, w, c_out], &[c_out]];
    let op = |t: &Tape, x: &[Tensor]| {
        let epilogue = Epilogue { channel_bias: None, residual: Some(&x[2]) };
        ops::conv2d_epilogue(t, &x[0], &x[1], Some(&x[3]), 1, Padding::all(1), epilogue)
    };
    // The CPU rounds before it adds the residual.
    Case::new("conv2d of few pixels", &shapes, &op).parameters(3).wide().devices_in_norm();
}

/// Additions to the result are the ops after one another, with their gradients.
#[test]
fn a_time_embedding_and_a_residual_are_added() {
    let (x, w, t, y): ([_; 4], [_; 4], _, [_; 4]) = ([2, 5, 3, 4], [9, 3, 3, 4], [2, 9], [2, 5, 3, 9]);
    let conv = |tape: &Tape, x: &[Tensor], bias: usize, epilogue: Epilogue<'_>| {
        ops::conv2d_epilogue(tape, &x[0], &x[1], Some(&x[bias]), 1, Padding::all(1), epilogue)
    };
    let both =
        |tape: &Tape, x: &[Tensor]| conv(tape, x, 4, Epilogue { channel_bias: Some(&x[2]), residual: Some(&x[3]) });
    let embedding =
        |tape: &Tape, x: &[Tensor]| conv(tape, x, 3, Epilogue { channel_bias: Some(&x[2]), residual: None });
    for (shapes, op) in
        [(vec![&x[..], &w, &t, &y, &[9]], &both as crate::support::Op<'_>), (vec![&x[..], &w, &t, &[9]], &embedding)]
    {
        let case = Case::new("conv2d with additions", &shapes, op).linear().parameters(shapes.len() - 1);
        case.differences();
        case.threads();
        case.wide().devices_in_norm();
    }
    let x = inputs(&[&x, &w, &t, &y], DType::Bf16);
    let tape = Tape::off();
    let apart = ops::conv2d(&tape, &x[0], &x[1], None, 1, Padding::all(1)).unwrap();
    let apart = ops::add_channel_bias(&tape, &apart, &x[2]).unwrap();
    let apart = ops::add(&tape, &apart, &x[3]).unwrap();
    let epilogue = Epilogue { channel_bias: Some(&x[2]), residual: Some(&x[3]) };
    let together = ops::conv2d_epilogue(&tape, &x[0], &x[1], None, 1, Padding::all(1), epilogue).unwrap();
    assert_eq!(apart.bytes(), together.bytes());
}

/// The layer of a network adds its LoRA, and what else there is, in the same pass.
#[test]
fn a_lora_is_added_with_what_else_there_is() {
    for (stride, [ho, wo], scale) in [(1, [5, 3], 1.0), (2, [3, 2], 0.3)] {
        let (x, w, t, y): ([_; 4], [_; 4], _, [_; 4]) = ([2, 5, 3, 4], [9, 3, 3, 4], [2, 9], [2, ho, wo, 9]);
        let conv = |tape: &Tape, x: &[Tensor], bias: usize, epilogue: Epilogue<'_>| {
            let param = |i: usize| Param::new("", x[i].clone());
            let lora = LoraWeights { a: param(2), b: param(3), scale, order: LoraOrder::Auto, magnitude: None };
            let conv = Conv2d {
                name: String::new(),
                weight: param(1),
                bias: param(bias),
                stride,
                padding: Padding::all(1),
                lora: Some(lora),
            };
            conv.forward_epilogue(tape, &x[0], epilogue)
        };
        let all =
            |tape: &Tape, x: &[Tensor]| conv(tape, x, 6, Epilogue { channel_bias: Some(&x[4]), residual: Some(&x[5]) });
        let shapes: [&[usize]; 7] = [&x, &w, &[3, 3, 3, 4], &[9, 3], &t, &y, &[9]];
        Case::new("Conv2d with a LoRA and additions", &shapes, &all).parameters(6).wide().devices_in_norm();
        let alone = |tape: &Tape, x: &[Tensor]| conv(tape, x, 4, Epilogue::default());
        let shapes: [&[usize]; 5] = [&x, &w, &[3, 3, 3, 4], &[9, 3], &[9]];
        Case::new("Conv2d with a LoRA", &shapes, &alone).parameters(4).wide().devices_in_norm();
    }
}

/// The same sample gives the same bytes alone and in a batch.
#[test]
fn samples_do_not_see_each_other() {
    let x = inputs(&[&[3, 6, 5, 12], &[20, 3, 3, 12]], DType::F32);
    let conv = |x: &Tensor, w: &Tensor| ops::conv2d(&Tape::off(), x, w, None, 1, Padding::all(1)).unwrap();
    let batch = conv(&x[0], &x[1]);
    for i in 0..3 {
        let alone = conv(&x[0].view(i * 360, &[1, 6, 5, 12]), &x[1]);
        assert_eq!(alone.bytes(), batch.view(i * 600, &[1, 6, 5, 20]).bytes(), "sample {i}");
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let tape = Tape::off();
    let t = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let (x, w) = (t(&[1, 4, 4, 3]), t(&[2, 3, 3, 3]));
    let with = |epilogue| ops::conv2d_epilogue(&tape, &x, &w, None, 1, Padding::all(1), epilogue);
    let mut failures = vec![
        ops::conv2d(&tape, &t(&[4, 4, 3]), &w, None, 1, Padding::all(1)),
        ops::conv2d(&tape, &x, &t(&[2, 3, 3, 4]), None, 1, Padding::all(1)),
        ops::conv2d(&tape, &x, &w, Some(&t(&[3])), 1, Padding::all(1)),
        ops::conv2d(&tape, &x, &w, None, 0, Padding::all(1)),
        ops::conv2d(&tape, &t(&[1, 2, 2, 3]), &w, None, 1, Padding::all(0)),
        with(Epilogue { channel_bias: Some(&t(&[1, 3])), residual: None }),
        with(Epilogue { channel_bias: None, residual: Some(&t(&[1, 4, 4, 3])) }),
        with(Epilogue { channel_bias: None, residual: Some(&t(&[1, 4, 4, 2]).cast(DType::Bf16)) }),
    ];
    for device in devices() {
        failures.push(ops::conv2d(&tape, &x, &w.to(&device).unwrap(), None, 1, Padding::all(1)));
    }
    for failure in failures {
        assert!(failure.unwrap_err().to_string().starts_with("conv2d"));
    }
}

/// As the two ops one after the other, whether the map is large or small, the weight frozen or trained.
#[test]
fn upsampling_with_a_convolution_is_the_same_as_before_it() {
    for ([n, h, w], c_in, c_out) in [([1, 2, 3], 5, 4), ([2, 7, 9], 16, 32), ([3, 5, 6], 7, 1)] {
        let x = inputs(&[&[n, h, w, c_in], &[c_out, 3, 3, c_in], &[c_out], &[n, 2 * h, 2 * w, c_out]], DType::F64);
        for watched in [&x[..1], &x[..3]] {
            let both = |op: &dyn Fn(&Tape) -> selma::Result<Tensor>| {
                let tape = Tape::watching(watched);
                let y = op(&tape).unwrap();
                let gradients = tape.backward_from(&y, x[3].clone()).unwrap();
                let gradients = watched.iter().map(|input| gradients.get(input).unwrap().clone());
                [y].into_iter().chain(gradients).collect::<Vec<Tensor>>()
            };
            let apart = both(&|tape| {
                let large = ops::upsample_nearest(tape, &x[0], 2 * h, 2 * w)?;
                ops::conv2d(tape, &large, &x[1], Some(&x[2]), 1, Padding::all(1))
            });
            let together = both(&|tape| ops::upsample_conv2d(tape, &x[0], &x[1], Some(&x[2])));
            for (expected, got) in apart.iter().zip(&together) {
                assert_eq!(expected.shape(), got.shape());
                for (expected, got) in expected.data::<f64>().iter().zip(got.data::<f64>()) {
                    assert!((expected - got).abs() < 1e-12, "{n}x{h}x{w}: {got}, not {expected}");
                }
            }
        }
    }
    threads("upsample_conv2d", &[&[2, 9, 8, 20]], &|t, x| {
        let weight = inputs(&[&[33, 3, 3, 20]], DType::F32).remove(0).cast(x[0].dtype());
        ops::upsample_conv2d(t, &x[0], &weight, None)
    });
}

/// On a GPU as on the CPU, where the weight is frozen, in sums of taps of whole and odd images and of as many pixels as are left
/// alone; in 16 bits the sums are rounded.
#[test]
fn every_device_agrees_on_upsampling_with_a_convolution() {
    for ([n, h, w], c_in, c_out) in
        [([1, 16, 17], 64, 32), ([3, 9, 11], 32, 64), ([1, 15, 17], 32, 32), ([1, 17, 17], 40, 24)]
    {
        let weight: Vec<f64> = values(c_out * 9 * c_in, 7).iter().map(|x| (x * 64.0).round() / 64.0).collect();
        let weight = Tensor::new(weight, &[c_out, 3, 3, c_in]);
        let bias = Tensor::new(values(c_out, 8), &[c_out]).cast(DType::F32);
        let op = |t: &Tape, x: &[Tensor]| {
            let device = x[0].device();
            let bias = if x[0].dtype() == DType::F64 { bias.cast(DType::F64) } else { bias.clone() };
            let (weight, bias) = (weight.cast(x[0].dtype()).to(&device)?, bias.to(&device)?);
            ops::upsample_conv2d(t, &x[0], &weight, Some(&bias))
        };
        Case::new("upsample_conv2d", &[&[n, h, w, c_in]], &op).devices_in_norm();
    }
}
