//! What the checks share: deterministic values and one way to run any op forward and backward.

use selma::autograd::Tape;
use selma::tensor::{DType, Tensor};
use selma::{Result, ops};

/// An op as a function of its differentiable inputs.
pub type Op = Box<dyn Fn(&Tape, &[Tensor]) -> Result<Tensor> + Sync + Send>;

/// A named op with the shapes of its differentiable inputs.
pub struct Case {
    pub name: String,
    pub shapes: Vec<Vec<usize>>,
    pub op: Op,
}

fn case(
    name: &str,
    shapes: &[&[usize]],
    op: impl Fn(&Tape, &[Tensor]) -> Result<Tensor> + Sync + Send + 'static,
) -> Case {
    Case {
        name: format!("{name} of {shapes:?}"),
        shapes: shapes.iter().map(|s| s.to_vec()).collect(),
        op: Box::new(op),
    }
}

/// Every op with a gradient, at sizes that are no multiple of a vector, a block or a chunk.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (tq, tk, causal) in
        [(1, 1, false), (19, 7, false), (7, 19, false), (17, 17, true), (18, 5, true), (5, 18, true)]
    {
        let name = if causal { "causal attention" } else { "attention" };
        cases.push(case(name, &[&[2, tq, 6], &[2, tk, 6], &[2, tk, 6]], move |t, x| {
            ops::attention(t, &x[0], &x[1], &x[2], 2, causal)
        }));
    }
    cases
}

/// Values in about [-2, 2] that look random and are the same everywhere.
pub fn values(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 51) as f64 - 2.0
        })
        .collect()
}

impl Case {
    /// Inputs with the values of [`values`] in `dtype`; one-dimensional parameters of norms get the accumulator.
    pub fn inputs(&self, dtype: DType) -> Vec<Tensor> {
        let norm = self.name.contains("norm");
        let input = |(i, shape): (usize, &Vec<usize>)| {
            let x = Tensor::new(values(shape.iter().product(), i as u64 + 1), shape);
            x.cast(dtype).cast(if norm && i > 0 { dtype.accumulator() } else { dtype })
        };
        self.shapes.iter().enumerate().map(input).collect()
    }

    /// The output, and the gradients of the inputs for [`values`] as the gradient of the output.
    pub fn run(&self, inputs: &[Tensor]) -> (Tensor, Vec<Tensor>) {
        let tape = Tape::watching(inputs);
        let y = (self.op)(&tape, inputs).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let dy = Tensor::new(values(y.len(), 99), y.shape()).cast(y.dtype());
        let mut gradients = tape.backward_from(&y, dy).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let gradients = inputs.iter().map(|x| gradients.remove(x).expect("every input is watched"));
        (y, gradients.collect())
    }
}
