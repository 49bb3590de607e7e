//! Gradients against central differences in f64.

use selma::autograd::Tape;
use selma::tensor::{DType, Tensor};

use crate::support::{cases, values};

#[test]
fn gradients_are_central_differences() {
    const STEP: f64 = 1e-5;
    for case in cases() {
        let inputs = case.inputs(DType::F64);
        let (y, gradients) = case.run(&inputs);
        let dy = values(y.len(), 99);
        let loss = |inputs: &[Tensor]| -> f64 {
            let y = (case.op)(&Tape::off(), inputs).unwrap();
            y.data::<f64>().iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        };
        for (i, gradient) in gradients.iter().enumerate() {
            assert_eq!(gradient.shape(), inputs[i].shape(), "{}: input {i}", case.name);
            // A few elements of each input tell: a wrong formula is wrong nearly everywhere.
            let stride = (gradient.len() / 24).max(1);
            for at in (0..gradient.len()).step_by(stride) {
                let moved = |by: f64| {
                    let mut data = inputs[i].data::<f64>().to_vec();
                    data[at] += by;
                    let mut inputs = inputs.clone();
                    inputs[i] = Tensor::new(data, inputs[i].shape());
                    loss(&inputs)
                };
                let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                let got = gradient.data::<f64>()[at];
                assert!(
                    (got - expected).abs() <= 1e-6 * (1.0 + expected.abs()),
                    "{}: d input {i} at {at}: {got}, differences say {expected}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn untracked_inputs_get_no_gradient() {
    for case in cases().into_iter().filter(|c| c.shapes.len() > 1) {
        let inputs = case.inputs(DType::F64);
        let (_, all) = case.run(&inputs);
        for (i, x) in inputs.iter().enumerate() {
            let tape = Tape::watching([x]);
            let y = (case.op)(&tape, &inputs).unwrap();
            let dy = Tensor::new(values(y.len(), 99), y.shape());
            let gradients = tape.backward_from(&y, dy).unwrap();
            assert_eq!(gradients.get(x).unwrap().bytes(), all[i].bytes(), "{}: input {i}", case.name);
        }
    }
}
