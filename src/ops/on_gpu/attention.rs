//! Attention. The backward pass makes all three gradients; those that nobody wants are dropped.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::attention::{Attention, Saved};
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::attention` of the sizes in `sizes`, which fit the tensors.
pub fn attention(tape: &Tape, [q, k, v]: [&Tensor; 3], sizes: Attention) -> Result<Tensor> {
    let memory = [of(q)?, of(k)?, of(v)?];
    if sizes.is_wide() {
        // No network that is trained has such heads.
        for x in [q, k, v] {
            tape.refuse("attention with heads of more than 160 channels on a GPU", x)?;
        }
        let y = sizes.forward_wide(&memory[0], &memory[1], &memory[2])?;
        return Ok(Tensor::on_gpu(y, q.shape()));
    }
    let [y, log_sums] = sizes.forward(&memory[0], &memory[1], &memory[2])?;
    let out = Tensor::on_gpu(y.clone(), q.shape());
    let inputs = [q, k, v];
    let wants = inputs.map(|x| tape.wants(x));
    let shapes = inputs.map(|x| x.shape().to_vec());
    tape.record("attention", &inputs, &out, move |dy| {
        let saved = Saved {
            q: &memory[0],
            k: &memory[1],
            v: &memory[2],
            y: &y,
            log_sums: &log_sums,
        };
        let gradients = sizes.backward(&of(dy)?, saved)?;
        let gradients = gradients.into_iter().zip(&shapes).zip(wants);
        Ok(gradients
            .map(|((gradient, shape), wanted)| wanted.then(|| Tensor::on_gpu(gradient, shape)))
            .collect())
    });
    Ok(out)
}
