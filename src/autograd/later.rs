//! Gradients that wait for others alike: a GPU makes several small ones at once in little more time than one.

use crate::error::Result;
use crate::tensor::Tensor;

/// Tensors of one op, some of which may be missing.
pub(crate) type Tensors = Vec<Option<Tensor>>;

/// How gradients of one kind are made.
pub(crate) struct Kind {
    /// At most so many at once.
    pub most: usize,
    /// The gradients of each one's [`Later::inputs`], from each one's [`Later::from`] and the factor that all have.
    pub make: fn(&[Tensors], f64) -> Result<Vec<Tensors>>,
}

/// Gradients of some of an op's inputs that may wait.
pub(crate) struct Later {
    pub kind: &'static Kind,
    /// Whose gradients they are, by number.
    pub inputs: Vec<usize>,
    /// What they are made of, in the order that the kind has.
    pub from: Tensors,
    pub factor: f64,
}

/// [`Later`], of an op's tensors.
pub(super) struct Waiting {
    pub op: &'static str,
    pub ids: Vec<Option<u64>>,
    pub later: Later,
}

impl Waiting {
    /// Whether both are made in the same way of tensors of the same shapes.
    pub fn is_like(&self, other: &Self) -> bool {
        let kind = |x: &Option<Tensor>| x.as_ref().map(|x| (x.shape().to_vec(), x.dtype()));
        std::ptr::eq(self.later.kind, other.later.kind)
            && self.later.factor.to_bits() == other.later.factor.to_bits()
            && self.later.from.iter().map(kind).eq(other.later.from.iter().map(kind))
    }
}
