//! Linear combinations and clamping, without gradients: what sampler steps are made of.

mod combination;
mod cpu;
mod gpu;

use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float, same};
pub use combination::Combination;
pub(crate) use combination::evaluate;

/// `sum_i coefficient_i * x_i` over tensors of one shape and dtype, added in their order.
///
/// # Errors
/// [`Error::Shape`] where there is none, or shapes, dtypes or devices differ; what a GPU says.
pub fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    const OP: &str = "combine";
    let Some(&(_, first)) = terms.first() else {
        return Err(Error::shape(OP, "nothing to add up"));
    };
    for &(_, x) in terms {
        same(OP, first, x)?;
    }
    let inputs: Vec<&Tensor> = terms.iter().map(|(_, x)| *x).collect();
    on!(device_of(OP, &inputs)?, combine(terms))
}

/// Every value limited to `[low, high]`; NaN stays.
///
/// # Errors
/// [`Error::Shape`] for integers; what a GPU says.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    const OP: &str = "clamp";
    float(OP, x)?;
    on!(device_of(OP, &[x])?, clamp(x, low, high))
}
