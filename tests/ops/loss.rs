//! `weighted_mse` and `weighted_distance`.

use selma::autograd::Tape;
use selma::ops::{self, Distance};
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

const DISTANCES: [Distance; 3] = [Distance::Squared, Distance::Huber, Distance::SmoothL1];

/// As [`loss`], with a weight for each position and another bend for each sample.
fn bent(tape: &Tape, x: &[Tensor], distance: Distance) -> selma::Result<Tensor> {
    let (x, n) = (&x[0], x[0].shape()[0]);
    let target = Tensor::new(values(x.len(), 7), x.shape()).cast(DType::Bf16).cast(x.dtype()).to(&x.device())?;
    let positions = &x.shape()[..x.shape().len() - 1];
    let weights = (1..=positions.iter().product()).map(|i| (i % 5) as f32 * 0.7).collect();
    let weights = Tensor::new(weights, positions).to(&x.device())?;
    let c = Tensor::new((1..=n).map(|i| i as f32 * 0.2).collect(), &[n]).to(&x.device())?;
    ops::weighted_distance(tape, x, &target, &weights, &c, distance)
}

#[test]
fn distances_equal_pytorch() {
    pytorch("weighted_distance", &["prediction", "target", "weight", "c"], 1e-6, |tape, x, settings| {
        let [prediction, target, weights, c] = [0, 1, 2, 3].map(|i| x[i].as_ref().unwrap());
        let distance = match settings["kind"].as_str().unwrap() {
            "huber" => Distance::Huber,
            "smooth_l1" => Distance::SmoothL1,
            _ => Distance::Squared,
        };
        ops::weighted_distance(tape, prediction, target, weights, c, distance)
    });
}

#[test]
fn distances_hold_at_awkward_sizes_and_on_every_device() {
    for distance in DISTANCES {
        let op = |tape: &Tape, x: &[Tensor]| bent(tape, x, distance);
        let what = format!("weighted_distance {distance:?}");
        Case::new(&what, &[&[2, 3, 5]], &op).check();
        Case::new(&what, &[&[2, 1600, 12]], &op).threads();
        for shape in [[1, 1, 1], [3, 1, 5], [2, 1024, 4], [2, 3000, 3]] {
            Case::new(&what, &[&shape], &op).devices(&[shape.iter().product(), 1]);
        }
    }
}

/// A weight a sample is the same as that weight at each of its positions.
#[test]
fn weights_of_samples_and_of_positions() {
    let x = Tensor::new(values(24, 1).iter().map(|&x| x as f32).collect(), &[2, 3, 4]);
    let (target, c) = (Tensor::zeros(&[2, 3, 4], DType::F32), Tensor::full(&[2], 0.1, DType::F32));
    let of = |weights: &Tensor, distance| {
        ops::weighted_distance(&Tape::off(), &x, &target, weights, &c, distance).unwrap().item()
    };
    let (each, all) = (Tensor::new(vec![0.5, 2.0_f32], &[2]), Tensor::new([[0.5_f32; 3], [2.0; 3]].concat(), &[2, 3]));
    for distance in DISTANCES {
        assert_eq!(of(&each, distance), of(&all, distance));
    }
    let plain = ops::weighted_mse(&Tape::off(), &x, &target, &each).unwrap().item();
    assert!((of(&each, Distance::Squared) - plain).abs() <= 1e-6 * plain);
}

#[test]
fn wrong_shapes_are_errors() {
    let x = Tensor::zeros(&[2, 3], DType::F32);
    for weights in [Tensor::zeros(&[1], DType::F32), Tensor::zeros(&[2], DType::F64)] {
        let message = ops::weighted_mse(&Tape::off(), &x, &x, &weights).unwrap_err().to_string();
        assert!(message.contains("expected one a sample, in f32"), "{message}");
    }
}
