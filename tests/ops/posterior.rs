//! `posterior_sample` and `kl_divergence`.

use selma::autograd::Tape;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{Case, devices, near, values};

fn sample(tape: &Tape, x: &[Tensor]) -> selma::Result<Tensor> {
    let mut shape = x[0].shape().to_vec();
    *shape.last_mut().unwrap() /= 2;
    let noise = Tensor::new(values(shape.iter().product(), 5), &shape).cast(DType::Bf16).cast(x[0].dtype());
    ops::posterior_sample(tape, &x[0], &noise.to(&x[0].device())?)
}

fn divergence(tape: &Tape, x: &[Tensor]) -> selma::Result<Tensor> {
    ops::kl_divergence(tape, &x[0])
}

#[test]
fn hold_at_awkward_sizes() {
    Case::new("posterior_sample", &[&[3, 2, 10]], &sample).check();
    Case::new("kl_divergence", &[&[3, 2, 10]], &divergence).check();
}

#[test]
fn every_device_agrees() {
    for (rows, c) in [(1, 1), (7, 4), (5, 9), (300, 16)] {
        Case::new("posterior_sample", &[&[rows, 2 * c]], &sample).devices(&[1, 1]);
        Case::new("kl_divergence", &[&[rows, 2 * c]], &divergence).devices(&[rows * c, 1]);
    }
}

/// A log variance outside of its range is taken as the range's end, and gets no gradient.
#[test]
fn log_variances_are_limited_on_every_device() {
    let moments = Tensor::new(vec![0.5_f32, -31.0, -0.25, 21.0, 1.0, 0.5], &[3, 2]);
    for (name, op) in [("sample", sample as fn(&Tape, &[Tensor]) -> _), ("divergence", divergence)] {
        let run = |x: &Tensor| {
            let tape = Tape::watching([x]);
            let y = op(&tape, std::slice::from_ref(x)).unwrap();
            let dy = Tensor::full(y.shape(), 1.0, y.dtype()).to(&y.device()).unwrap();
            let dx = tape.backward_from(&y, dy).unwrap().remove(x).unwrap();
            (y, dx)
        };
        let (y, dx) = run(&moments);
        let slopes = dx.data::<f32>();
        assert!(slopes[1] == 0.0 && slopes[3] == 0.0 && slopes[5] != 0.0, "{name}: {slopes:?}");
        for device in devices() {
            let (got, got_dx) = run(&moments.to(&device).unwrap());
            near(&format!("{name} on {}", device.name()), &got, &y, 6);
            near(&format!("{name}, gradient, on {}", device.name()), &got_dx, &dx, 1);
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let odd = ops::kl_divergence(&Tape::off(), &zeros(&[2, 3])).unwrap_err().to_string();
    assert!(odd.contains("is not a mean and a log variance"), "{odd}");
    let other = ops::posterior_sample(&Tape::off(), &zeros(&[2, 4]), &zeros(&[2, 3])).unwrap_err().to_string();
    assert!(other.contains("is not noise"), "{other}");
}
