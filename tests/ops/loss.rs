//! `weighted_mse`.

use selma::autograd::Tape;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{Case, pytorch, values};

/// Against a target that every dtype holds exactly, with another weight for each sample.
fn loss(tape: &Tape, x: &[Tensor]) -> selma::Result<Tensor> {
    let (x, n) = (&x[0], x[0].shape()[0]);
    let target = Tensor::new(values(x.len(), 7), x.shape()).cast(DType::Bf16).cast(x.dtype()).to(&x.device())?;
    let weights = Tensor::new((1..=n).map(|i| i as f32 * 0.7).collect(), &[n]).to(&x.device())?;
    ops::weighted_mse(tape, x, &target, &weights)
}

#[test]
fn equals_pytorch() {
    pytorch("weighted_mse", &["prediction", "target", "weight"], 1e-6, |tape, x, _| {
        let [prediction, target, weights] = [0, 1, 2].map(|i| x[i].as_ref().unwrap());
        ops::weighted_mse(tape, prediction, target, weights)
    });
}

#[test]
fn holds_at_awkward_sizes() {
    Case::new("weighted_mse", &[&[2, 3, 5]], &loss).check();
}

/// Sums over many chunks.
#[test]
fn threads_do_not_change_large_sums() {
    Case::new("weighted_mse", &[&[2, 1600, 12]], &loss).threads();
}

#[test]
fn every_device_agrees() {
    for shape in [[1, 1], [3, 5], [2, 4096], [2, 9001]] {
        Case::new("weighted_mse", &[&shape], &loss).devices(&[shape[0] * shape[1], 1]);
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let x = Tensor::zeros(&[2, 3], DType::F32);
    for weights in [Tensor::zeros(&[1], DType::F32), Tensor::zeros(&[2], DType::F64)] {
        let message = ops::weighted_mse(&Tape::off(), &x, &x, &weights).unwrap_err().to_string();
        assert!(message.contains("expected one a sample, in f32"), "{message}");
    }
}
