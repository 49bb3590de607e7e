//! The pointwise ops.

use selma::autograd::Tape;
use selma::device::Device;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{Case, devices, inputs, pytorch};

type Unary = fn(&Tape, &Tensor) -> selma::Result<Tensor>;
const ACTIVATIONS: [(&str, Unary); 3] = [("silu", ops::silu), ("gelu", ops::gelu), ("quick_gelu", ops::quick_gelu)];
/// Around a pack and a block of each storage type.
const LENGTHS: [usize; 6] = [1, 7, 8, 255, 2048, 4099];

#[test]
fn equals_pytorch() {
    for (name, op) in ACTIVATIONS {
        pytorch(name, &["x"], 1e-6, |tape, x, _| op(tape, x[0].as_ref().unwrap()));
    }
    pytorch("add_channel_bias", &["x", "b"], 1e-6, |tape, x, _| {
        ops::add_channel_bias(tape, x[0].as_ref().unwrap(), x[1].as_ref().unwrap())
    });
}

#[test]
fn activations() {
    for (name, op) in ACTIVATIONS {
        // Also far from zero, where the functions are flat or steep.
        let op = |t: &Tape, x: &[Tensor]| op(t, &ops::scale(t, &x[0], 8.0)?);
        Case::new(name, &[&[37]], &|t, x| ops::scale(t, &op(t, x)?, 0.5)).differences();
        for n in LENGTHS {
            Case::new(name, &[&[n]], &op).devices(&[1, 1]);
        }
    }
    for (name, op) in ACTIVATIONS {
        Case::new(name, &[&[37]], &|t, x| op(t, &x[0])).check();
    }
}

#[test]
fn sums_and_multiples() {
    for n in [37, 1, 8, 255, 4099] {
        let add = Case::new("add", &[&[n], &[n]], &|t, x| ops::add(t, &x[0], &x[1])).linear();
        let scale = Case::new("scale", &[&[n]], &|t, x| ops::scale(t, &x[0], -1.7)).linear();
        add.check();
        add.devices(&[1, 1, 1]);
        scale.check();
        scale.devices(&[1, 1]);
    }
}

#[test]
fn one_value_a_channel() {
    for [n, h, w, c] in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 4, 4, 40], [2, 3, 5, 67]] {
        let op = |t: &Tape, x: &[Tensor]| ops::add_channel_bias(t, &x[0], &x[1]);
        let case = Case::new("add_channel_bias", &[&[n, h, w, c], &[n, c]], &op).linear();
        case.check();
        case.devices(&[1, 1, h * w]);
    }
}

/// A view that begins where 16-byte loads may not.
#[test]
fn views_at_odd_places() {
    for device in devices() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let x = &inputs(&[&[300]], dtype)[0];
            let silu = |x: &Tensor| ops::silu(&Tape::off(), &x.view(3, &[290])).unwrap();
            crate::support::near("silu of a view", &silu(&x.to(&device).unwrap()), &silu(x), 1);
        }
    }
}

#[test]
fn rounding_to_a_storage_type_and_back() {
    for device in devices() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for n in LENGTHS {
                let x = &inputs(&[&[n]], DType::F32)[0];
                let stored = ops::cast(&x.to(&device).unwrap(), dtype).unwrap();
                assert_eq!(stored.to_cpu().unwrap().bytes(), x.cast(dtype).bytes());
                let back = ops::cast(&stored, DType::F32).unwrap().to_cpu().unwrap();
                assert_eq!(back.bytes(), x.cast(dtype).cast(DType::F32).bytes());
            }
        }
        let ids = Tensor::new(vec![1_i64], &[1]).to(&device).unwrap();
        let error = ops::cast(&ids, DType::Bf16).unwrap_err().to_string();
        assert!(error.contains("i64"), "{error}");
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let tape = Tape::off();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let (x, w, ids) = (zeros(&[2, 3, 3, 6]), zeros(&[6]), Tensor::new(vec![6_i64], &[1]));
    let failures = [
        ("add", ops::add(&tape, &x, &w)),
        ("add", ops::add(&tape, &w, &w.cast(DType::F64))),
        ("add_channel_bias", ops::add_channel_bias(&tape, &x, &w)),
        ("silu", ops::silu(&tape, &ids)),
        ("scale", ops::scale(&tape, &ids, 2.0)),
    ];
    for (op, failure) in failures {
        let error = failure.unwrap_err().to_string();
        assert!(error.contains(op), "{error}");
    }
    for device in devices() {
        let there: &Device = &device;
        let error = ops::add(&tape, &w, &w.to(there).unwrap()).unwrap_err().to_string();
        assert!(error.contains(&device.name()), "{error}");
    }
}
