//! Linear combinations of linear combinations, computed together: what a guided sampler step is.

use std::sync::Arc;

use super::{clamp, combine, gpu};
use crate::device::Device;
use crate::error::Result;
use crate::tensor::{Tensor, device_of, same};

/// A tensor, or a linear combination of such that is computed when it is asked for. On the CPU that takes one pass for
/// each combination, on a GPU a launch for all of them.
#[derive(Clone)]
pub struct Combination(Arc<Node>);

enum Node {
    Tensor(Tensor),
    Sum { terms: Vec<(f64, Combination)>, limit: f64 },
}

impl Combination {
    pub fn of(x: &Tensor) -> Self {
        Self(Arc::new(Node::Tensor(x.clone())))
    }

    /// `sum_i coefficient_i * x_i` over tensors of one shape and dtype.
    pub fn sum(terms: &[(f64, &Self)]) -> Self {
        let (terms, limit) = (terms.iter().map(|&(c, x)| (c, x.clone())).collect(), f64::INFINITY);
        Self(Arc::new(Node::Sum { terms, limit }))
    }

    /// With every value limited to `[-limit, limit]`; NaN stays.
    pub fn limited(&self, limit: f64) -> Self {
        let terms = match &*self.0 {
            Node::Sum { terms, limit } if limit.is_infinite() => terms.clone(),
            _ => vec![(1.0, self.clone())],
        };
        Self(Arc::new(Node::Sum { terms, limit }))
    }

    /// Its values, on the device of the tensors that it is made of.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where those differ in shape, dtype or device.
    pub fn tensor(&self) -> Result<Tensor> {
        let [values] = evaluate([self])?;
        Ok(values)
    }
}

/// The values of several combinations, of which one may be made of another.
pub(crate) fn evaluate<const N: usize>(wanted: [&Combination; N]) -> Result<[Tensor; N]> {
    let mut lines = Lines::default();
    let places = wanted.map(|w| lines.place(w));
    let values = lines.compute()?;
    Ok(places.map(|place| match place {
        Place::Input(i) => lines.inputs[i].clone(),
        Place::Line(i) => values[i].clone(),
    }))
}

/// Where the value of a node is.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Input(usize),
    Line(usize),
}

/// One combination, of inputs and of lines before it.
pub(super) struct Line {
    pub terms: Vec<(f64, Place)>,
    pub limit: f64,
}

/// Combinations in an order in which they can be computed.
#[derive(Default)]
pub(super) struct Lines {
    pub inputs: Vec<Tensor>,
    pub lines: Vec<Line>,
    /// Nodes that have a place: they are shared.
    placed: Vec<(Combination, Place)>,
}

impl Lines {
    fn place(&mut self, x: &Combination) -> Place {
        if let Some((_, place)) = self.placed.iter().find(|(node, _)| Arc::ptr_eq(&node.0, &x.0)) {
            return *place;
        }
        let place = match &*x.0 {
            Node::Tensor(tensor) => {
                self.inputs.push(tensor.clone());
                Place::Input(self.inputs.len() - 1)
            }
            Node::Sum { terms, limit } => {
                let terms = terms.iter().map(|(c, x)| (*c, self.place(x))).collect();
                self.lines.push(Line { terms, limit: *limit });
                Place::Line(self.lines.len() - 1)
            }
        };
        self.placed.push((x.clone(), place));
        place
    }

    /// The values of the lines.
    fn compute(&self) -> Result<Vec<Tensor>> {
        let inputs: Vec<&Tensor> = self.inputs.iter().collect();
        // One launch computes all lines, where they are not more than it takes.
        if device_of("combine", &inputs)? != Device::Cpu {
            for x in &inputs[1..] {
                same("combine", inputs[0], x)?;
            }
            if let Some(values) = gpu::lines(self)? {
                return Ok(values);
            }
        }
        let mut values: Vec<Tensor> = Vec::with_capacity(self.lines.len());
        for line in &self.lines {
            let terms = line.terms.iter().map(|&(c, place)| match place {
                Place::Input(i) => (c, &self.inputs[i]),
                Place::Line(i) => (c, &values[i]),
            });
            let sum = combine(&terms.collect::<Vec<_>>())?;
            values.push(if line.limit.is_finite() { clamp(&sum, -line.limit, line.limit)? } else { sum });
        }
        Ok(values)
    }
}
