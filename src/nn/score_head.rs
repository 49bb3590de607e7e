//! The head of the aesthetic predictor and of ImageReward: linear layers without activations between.

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::{Linear, Weights, input};
use crate::tensor::Tensor;

/// `layers.{0,2,4,6,7}`; the numbers between were dropouts. In f32 whatever the network before it computes in: the originals
/// do, and five roundings of one number would be most of its error.
#[derive(Clone)]
pub struct ScoreHead(Vec<Linear>);

impl ScoreHead {
    /// Sizes follow from the weights.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming the tensor that is missing or does not fit.
    pub fn load(w: &Weights) -> Result<Self> {
        let (w, mut c_in) = (w.unrounded(), None);
        let layer = |i| {
            let layer = w.scope(&format!("layers.{i}"));
            let shape = layer.shape("weight")?;
            let c_in = c_in.replace(shape[0]).unwrap_or(shape.last().copied().unwrap_or(0));
            Linear::load(&layer, c_in, shape[0], true)
        };
        [0, 2, 4, 6, 7].into_iter().map(layer).collect::<Result<_>>().map(Self)
    }

    /// Width of what it takes.
    pub fn width(&self) -> usize {
        self.0[0].weight.get().shape()[1]
    }

    /// `[n, width]` -> `[n, 1]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for another width.
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let first = self.0[0].weight.get();
        let x = input(tape, x, &first.device(), first.dtype())?;
        self.0.iter().try_fold(x, |x, layer| layer.forward(tape, &x))
    }
}
