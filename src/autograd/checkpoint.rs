//! Recompute a block in the backward pass instead of keeping what it saved (Chen et al. 2016, arXiv:1604.06174).

use std::collections::HashSet;

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// Runs `block` and remembers only `inputs`; the backward pass runs it once more with a tape of its own. `block` must be
/// a pure function of its inputs and of parameters (leaves of the tape). A block that depends on nothing tracked costs
/// nothing in backward.
///
/// The closure must own what it uses (clone the module's `Arc`s into it).
///
/// # Errors
/// What `block` says, here and when it runs once more in the backward pass.
pub fn checkpoint(
    tape: &Tape,
    inputs: &[&Tensor],
    block: impl Fn(&Tape, &[Tensor]) -> Result<Tensor> + 'static,
) -> Result<Tensor> {
    let owned: Vec<Tensor> = inputs.iter().map(|&x| x.clone()).collect();
    let leaves = tape.leaves();
    if leaves.is_empty() {
        return block(&Tape::off(), &owned);
    }
    let wanted = inputs.iter().filter(|x| tape.wants(x)).map(|x| x.id());
    let watched: HashSet<u64> = leaves.into_iter().chain(wanted).collect();
    // What this tape records goes at once; it only tells whether the block depends on anything that is watched.
    let probe = Tape::watching_ids(watched.clone());
    let output = block(&probe, &owned)?;
    if !probe.wants(&output) {
        return Ok(output);
    }
    drop(probe);
    tape.record_entry("checkpoint", std::slice::from_ref(&output), move |dy, gradients| {
        let Some(dy) = &dy[0] else { return Ok(()) };
        let inner = Tape::watching_ids(watched);
        let output = block(&inner, &owned)?;
        for (id, gradient) in inner.backward_from(&output, dy.clone())?.into_iter() {
            gradients.add(id, gradient)?;
        }
        Ok(())
    });
    Ok(output)
}
