//! Recompute a block in the backward pass instead of keeping what it saved (Chen et al. 2016, arXiv:1604.06174).

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// Runs `block` without recording and remembers only `inputs`; the backward pass runs it once more with a tape of its
/// own. `block` must be a pure function of its inputs and of parameters (leaves of the tape).
///
/// The closure must own what it uses (clone the module's `Arc`s into it).
pub fn checkpoint(
    tape: &Tape,
    inputs: &[&Tensor],
    block: impl Fn(&Tape, &[Tensor]) -> Result<Tensor> + 'static,
) -> Result<Tensor> {
    let owned: Vec<Tensor> = inputs.iter().map(|&x| x.clone()).collect();
    let output = block(&Tape::off(), &owned)?;
    let leaves = tape.leaves();
    if leaves.is_empty() {
        return Ok(output);
    }
    let wanted: Vec<u64> = inputs.iter().filter(|x| tape.wants(x)).map(|x| x.id()).collect();
    tape.record_entry("checkpoint", &output, move |dy, gradients| {
        let inner = Tape::watching_ids(leaves.iter().copied().chain(wanted).collect());
        let output = block(&inner, &owned)?;
        for (id, gradient) in inner.backward_from(&output, dy.clone())?.into_iter() {
            gradients.add(id, gradient);
        }
        Ok(())
    });
    Ok(output)
}
