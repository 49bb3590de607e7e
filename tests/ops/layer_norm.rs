//! `layer_norm`.

use selma::autograd::Tape;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{Case, devices, pytorch};

/// The case of these sizes.
fn case(shape: &[usize]) -> Case<'static> {
    let c = *shape.last().unwrap();
    let op = &|t: &Tape, x: &[Tensor]| ops::layer_norm(t, &x[0], &x[1], &x[2], 1e-5);
    Case::new("layer_norm", &[shape, &[c], &[c]], op).parameters(1).wide()
}

#[test]
fn equals_pytorch() {
    pytorch("layer_norm", &["x", "w", "b"], 2e-5, |tape, x, settings| {
        let [x, w, b] = [0, 1, 2].map(|i| x[i].as_ref().unwrap());
        ops::layer_norm(tape, x, w, b, settings["eps"].as_f64().unwrap())
    });
}

#[test]
fn holds_at_awkward_sizes() {
    for shape in [&[3, 19][..], &[67, 3], &[2, 3, 5], &[7], &[1, 1]] {
        case(shape).check();
    }
}

/// Sums over many blocks of rows.
#[test]
fn threads_do_not_change_large_sums() {
    case(&[3200, 12]).threads();
}

/// Values whose mean is far from zero, where sums of squares would cancel.
#[test]
fn every_device_agrees() {
    for shape in [[3, 7], [9, 64], [130, 33], [11, 768], [5, 1300]] {
        case(&shape).around(10.0).devices(&[1000, 1000, 4000, 1000]);
    }
}

/// What another op gave to the gradient of x is added in the pass that makes this one's.
#[test]
fn adds_to_a_gradient_that_is_there() {
    for shape in [[9, 64], [130, 33], [11, 1280], [5, 1300]] {
        let c = shape[1];
        let op = |t: &Tape, x: &[Tensor]| ops::add(t, &ops::layer_norm(t, &x[0], &x[1], &x[2], 1e-5)?, &x[0]);
        Case::new("layer_norm plus x", &[&shape, &[c], &[c]], &op).parameters(1).wide().devices_in_norm();
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let refused = |x: &Tensor, w: &Tensor, b: &Tensor| {
        let error = ops::layer_norm(&Tape::off(), x, w, b, 1e-5).unwrap_err().to_string();
        assert!(error.contains("layer_norm"), "{error}");
        error
    };
    let (x, w) = (zeros(&[2, 5]), zeros(&[5]));
    refused(&x, &zeros(&[6]), &w);
    refused(&x, &w, &zeros(&[1, 5]));
    refused(&zeros(&[]), &w, &w);
    refused(&Tensor::new(vec![0_i64; 5], &[1, 5]), &w, &w);
    for device in devices() {
        assert!(refused(&x, &w.to(&device).unwrap(), &w).contains(&device.name()));
    }
}
