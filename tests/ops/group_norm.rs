//! `group_norm`.

use selma::autograd::Tape;
use selma::device::Device;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{Case, devices, inputs, pytorch};

/// Calls `check` with the case of these sizes, without and with SiLU.
fn with_and_without_silu([n, h, w, c]: [usize; 4], groups: usize, check: impl Fn(Case)) {
    for silu in [false, true] {
        let op = |t: &Tape, x: &[Tensor]| ops::group_norm(t, &x[0], &x[1], &x[2], groups, 1e-5, silu);
        let what = format!("group_norm with {groups} groups, silu {silu}");
        check(Case::new(&what, &[&[n, h, w, c], &[c], &[c]], &op).parameters(1).wide());
    }
}

#[test]
fn equals_pytorch() {
    for (op, silu) in [("group_norm", false), ("group_norm_silu", true)] {
        pytorch(op, &["x", "w", "b"], 2e-5, |tape, x, settings| {
            let [x, w, b] = [0, 1, 2].map(|i| x[i].as_ref().unwrap());
            let groups = settings["groups"].as_u64().unwrap() as usize;
            ops::group_norm(tape, x, w, b, groups, settings["eps"].as_f64().unwrap(), silu)
        });
    }
}

/// The second has more pixels than one partial sum covers.
#[test]
fn holds_at_awkward_sizes() {
    for (shape, groups) in [([2, 3, 5, 6], 3), ([1, 9, 9, 4], 2)] {
        with_and_without_silu(shape, groups, |case| case.check());
    }
}

#[test]
fn threads_do_not_change_large_sums() {
    with_and_without_silu([2, 40, 40, 12], 4, |case| case.threads());
}

/// A group inside a pack and across packs, more channels than a block has packs of, several slabs, one pixel; values whose
/// mean is far from zero, where sums of squares would cancel.
#[test]
fn every_device_agrees() {
    let sizes = [
        ([1, 2, 2, 4], 2),
        ([2, 5, 3, 6], 3),
        ([2, 3, 7, 40], 4),
        ([1, 6, 6, 320], 32),
        ([1, 67, 9, 72], 8),
        ([1, 2, 3, 2112], 32),
    ];
    for (shape, groups) in sizes {
        // What is left of the mean's rounding is seen from x's size, some 20 deviations.
        with_and_without_silu(shape, groups, |case| case.around(10.0).devices(&[4000, 4000, 4000, 1000]));
    }
}

/// What another op gave to the gradient of x is added in the pass that makes this one's.
#[test]
fn adds_to_a_gradient_that_is_there() {
    for (shape, groups) in [([2, 5, 3, 6], 3), ([1, 67, 9, 72], 8)] {
        let c = shape[3];
        let op =
            |t: &Tape, x: &[Tensor]| ops::add(t, &ops::group_norm(t, &x[0], &x[1], &x[2], groups, 1e-5, true)?, &x[0]);
        Case::new("group_norm plus x", &[&shape, &[c], &[c]], &op).parameters(1).wide().devices_in_norm();
    }
}

/// Two tensors side by side: where rows of the second begin at multiples of 16 bytes, and where they do not; both results, and
/// each alone.
#[test]
fn tensors_side_by_side() {
    for ([n, h, w, a, b], groups) in [([2, 3, 5, 8, 16], 3), ([1, 9, 7, 3, 5], 2), ([2, 20, 20, 24, 40], 8)] {
        let (x, skip, c) = ([n, h, w, a], [n, h, w, b], [a + b]);
        let shapes: [&[usize]; 4] = [&x, &skip, &c, &c];
        let both = |t: &Tape, x: &[Tensor]| {
            let [y, both] = ops::group_norm_concat(t, [&x[0], &x[1]], &x[2], &x[3], groups, 1e-5, true)?;
            ops::add(t, &ops::add(t, &y, &both)?, &both)
        };
        let case = Case::new("group_norm_concat", &shapes, &both).parameters(2).wide();
        case.differences();
        case.threads();
        case.devices_in_norm();
        let first = |t: &Tape, x: &[Tensor]| {
            let [y, _] = ops::group_norm_concat(t, [&x[0], &x[1]], &x[2], &x[3], groups, 1e-5, false)?;
            Ok(y)
        };
        let case = Case::new("the first of group_norm_concat", &shapes, &first).parameters(2).wide();
        case.differences();
        case.devices_in_norm();
    }
}

/// To the last bit as one after the other, on a GPU without a pass that only copies.
#[test]
fn tensors_side_by_side_are_not_copied_for_it() {
    for device in devices().into_iter().chain([Device::Cpu]) {
        let (device, launched) = match device {
            Device::Gpu(gpu) => {
                let (gpu, launched) = gpu.recorded();
                (Device::Gpu(gpu), Some(launched))
            }
            Device::Cpu => (Device::Cpu, None),
        };
        for dtype in [DType::F32, DType::Bf16] {
            let x = inputs(&[&[2, 9, 7, 24], &[2, 9, 7, 40], &[2, 9, 7, 64], &[2, 9, 7, 64]], dtype);
            let parameters = inputs(&[&[64], &[64]], DType::F32);
            let x: Vec<Tensor> = x.iter().chain(&parameters).map(|x| x.to(&device).unwrap()).collect();
            // Gradients come to both results, or to one.
            for (of_y, of_both) in [(true, true), (true, false), (false, true)] {
                let run = |op: &dyn Fn(&Tape) -> selma::Result<[Tensor; 2]>| {
                    let tape = Tape::watching([&x[0], &x[1], &x[4], &x[5]]);
                    let [y, both] = op(&tape).unwrap();
                    let sum = match (of_y, of_both) {
                        (true, true) => ops::add(&tape, &y, &both).unwrap(),
                        (true, false) => y.clone(),
                        _ => ops::silu(&tape, &both).unwrap(),
                    };
                    let gradients = tape.backward_from(&sum, x[2].clone()).unwrap();
                    let bytes = |x: &Tensor| x.to_cpu().unwrap().bytes().to_vec();
                    let of = [0, 1, 4, 5].map(|i| gradients.get(&x[i]).map(bytes));
                    (bytes(&y), bytes(&both), of)
                };
                launched.iter().for_each(|launched| drop(launched.take()));
                let together = run(&|tape| ops::group_norm_concat(tape, [&x[0], &x[1]], &x[4], &x[5], 8, 1e-5, true));
                let names = launched.as_ref().map(|launched| launched.take()).unwrap_or_default();
                assert!(!names.contains_key("concat_channels"), "{names:?}");
                assert!(!of_y || !names.contains_key("slice_channels"), "{names:?}");
                let apart = run(&|tape| {
                    let both = ops::concat_channels(tape, &x[0], &x[1])?;
                    Ok([ops::group_norm(tape, &both, &x[4], &x[5], 8, 1e-5, true)?, both])
                });
                assert!(together == apart, "{dtype:?} on {}: {of_y} {of_both}", device.name());
            }
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let (x, w) = (zeros(&[2, 3, 3, 6]), zeros(&[6]));
    let refused = |x: &Tensor, w: &Tensor, b: &Tensor, groups| {
        let error = ops::group_norm(&Tape::off(), x, w, b, groups, 1e-5, false).unwrap_err().to_string();
        assert!(error.contains("group_norm"), "{error}");
        error
    };
    assert!(refused(&x, &w, &w, 4).contains("4 groups"));
    refused(&x, &w, &w, 0);
    refused(&x, &zeros(&[5]), &w, 3);
    refused(&x, &w, &zeros(&[6, 1]), 3);
    refused(&w, &w, &w, 3);
    refused(&zeros(&[0, 3, 3, 6]), &w, &w, 3);
    refused(&Tensor::new(vec![0_i64; 6], &[1, 1, 1, 6]), &w, &w, 3);
    for device in devices() {
        assert!(refused(&x, &w.to(&device).unwrap(), &w, 3).contains(&device.name()));
    }
}
