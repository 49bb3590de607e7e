//! Weighted mean squared error, and other distances in its place.

mod cpu;
mod gpu;

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, device_of, same};
pub(super) use gpu::mean_of_parts;

/// `mean_n( weights[n] * mean over the rest of (prediction - target)^2 )`, computed in f32 (f64 for f64) -> scalar `[]`
/// of the accumulator dtype. `weights` is f32 `[n]`; it and `target` get no gradient.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn weighted_mse(tape: &Tape, prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    const OP: &str = "weighted_mse";
    same(OP, prediction, target)?;
    tape.refuse(OP, target)?;
    let n = prediction.shape().first().copied().unwrap_or(0);
    if prediction.is_empty() || weights.shape() != [n] || weights.dtype() != DType::F32 {
        let message = format!("weights {weights:?} for predictions {prediction:?}: expected one a sample, in f32");
        return Err(Error::shape(OP, message));
    }
    let device = device_of(OP, &[prediction, target, weights])?;
    let loss = on!(device, weighted_mse(prediction, target, weights))?;
    let (p, t, weights) = (prediction.clone(), target.clone(), weights.clone());
    tape.record(OP, [prediction], &loss, move |dy, _| Ok([Some(on!(device, gradient(&p, &t, &weights, dy))?)]));
    Ok(loss)
}

/// How the difference x of a prediction counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// x^2
    Squared,
    /// 2 c (sqrt(x^2 + c^2) - c): x^2 near 0, and far from it 2 c times the absolute value (pseudo-Huber; Charbonnier et al. 1997).
    Huber,
    /// 2 (sqrt(x^2 + c^2) - c)
    SmoothL1,
}

/// As [`weighted_mse`] with `weights` f32 `[n]`, or one a position `[n, ..]` (all dimensions but the last), and the distance of
/// which `c`, f32 `[n]` and above 0, says for each sample where it bends. Distances are those of kohya's sd-scripts
/// (`conditional_loss`).
///
/// # Errors
/// As [`weighted_mse`].
pub fn weighted_distance(
    tape: &Tape,
    prediction: &Tensor,
    target: &Tensor,
    weights: &Tensor,
    c: &Tensor,
    distance: Distance,
) -> Result<Tensor> {
    const OP: &str = "weighted_distance";
    same(OP, prediction, target)?;
    tape.refuse(OP, target)?;
    let shape = prediction.shape();
    let n = shape.first().copied().unwrap_or(0);
    let fits = weights.shape() == [n] || (shape.len() > 1 && *weights.shape() == shape[..shape.len() - 1]);
    let floats = weights.dtype() == DType::F32 && c.dtype() == DType::F32;
    if prediction.is_empty() || !fits || !floats || c.shape() != [n] {
        let message =
            format!("weights {weights:?} and c {c:?} for {prediction:?}: expected one a sample or position, in f32");
        return Err(Error::shape(OP, message));
    }
    let device = device_of(OP, &[prediction, target, weights, c])?;
    let loss = on!(device, weighted_distance(prediction, target, weights, c, distance))?;
    let (p, t, weights, c) = (prediction.clone(), target.clone(), weights.clone(), c.clone());
    tape.record(OP, [prediction], &loss, move |dy, _| {
        Ok([Some(on!(device, distance_gradient(&p, &t, &weights, &c, distance, dy))?)])
    });
    Ok(loss)
}
