//! Several linear layers of one input.

use super::linear::{check, linear};
use super::lora::{Branch, lora_linear, planned};
use super::on_gpu;
use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// Layers that one launch can have.
const MOST: usize = 3;

/// [`linear`] or [`lora_linear`] of one `x` `[.., in]` for each of several layers without bias: a weight `[out, in]`, and
/// what the layer has besides. On a GPU up to three of them are one launch, where weights and branches are of one shape
/// and scale, and one more launch for the branches; the bytes are those of one after the other.
///
/// # Errors
/// [`crate::Error::Shape`] where the shapes do not fit.
pub fn linear_group(tape: &Tape, x: &Tensor, layers: &[(&Tensor, Option<Branch<'_>>)]) -> Result<Vec<Tensor>> {
    if let Some(results) = at_once(tape, x, layers)? {
        return Ok(results);
    }
    let one = |&(weight, branch): &(&Tensor, Option<Branch<'_>>)| match branch {
        None => linear(tape, x, weight, None),
        Some(branch) => lora_linear(tape, x, weight, None, branch),
    };
    layers.iter().map(one).collect()
}

/// The results of layers that can go together, on a GPU.
fn at_once(tape: &Tape, x: &Tensor, layers: &[(&Tensor, Option<Branch<'_>>)]) -> Result<Option<Vec<Tensor>>> {
    const OP: &str = "linear_group";
    let weights: Vec<&Tensor> = layers.iter().map(|(weight, _)| *weight).collect();
    let branches: Vec<Branch<'_>> = layers.iter().filter_map(|(_, branch)| *branch).collect();
    let alike = weights.windows(2).all(|pair| pair[0].shape() == pair[1].shape())
        && (branches.is_empty() || branches.len() == layers.len())
        && branches.windows(2).all(|pair| {
            let [first, second] = [&pair[0], &pair[1]].map(|branch| (branch.a.shape(), branch.scale, branch.order));
            first == second
        });
    if !alike || !(2..=MOST).contains(&layers.len()) || x.is_empty() {
        return Ok(None);
    }
    let all: Vec<&Tensor> = [x].into_iter().chain(weights.iter().copied()).collect();
    if !on_gpu::holds(OP, &all)? {
        return Ok(None);
    }
    let [out, width] = weights[0].dims(OP)?;
    check(OP, x, width, out, None)?;
    if branches.is_empty() {
        return on_gpu::linear_group(tape, x, &weights).map(Some);
    }
    let pairs: Vec<(&Tensor, Branch<'_>)> = weights.into_iter().zip(branches).collect();
    let plans = pairs.iter().map(|(weight, branch)| planned(tape, x, weight, None, *branch));
    let plans = plans.collect::<Result<Vec<_>>>()?;
    // Layers of which some are trained and some are not may be planned differently.
    if plans.iter().any(|plan| *plan != plans[0]) {
        return Ok(None);
    }
    on_gpu::lora_linear_group(tape, x, &pairs, plans[0]).map(Some)
}
