//! Attention. The backward pass makes all three gradients; those that nobody wants are dropped.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::Buffer;
use crate::device::gpu::attention::{Attention, Saved};
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::attention` of the sizes in `sizes`, which fit the tensors.
pub fn attention(tape: &Tape, [q, k, v]: [&Tensor; 3], sizes: Attention) -> Result<Tensor> {
    let memory = [of(q)?, of(k)?, of(v)?];
    let inputs = [q, k, v];
    let shapes = inputs.map(|x| x.shape().to_vec());
    if sizes.is_wide() {
        let out = Tensor::on_gpu(sizes.forward_wide(&memory)?, q.shape());
        tape.record("attention", inputs, &out, move |dy, wants| {
            Ok(wanted(sizes.backward_wide(&of(dy)?, &memory)?, &shapes, wants))
        });
        return Ok(out);
    }
    let [y, log_sums] = sizes.forward(&memory[0], &memory[1], &memory[2])?;
    let out = Tensor::on_gpu(y.clone(), q.shape());
    tape.record("attention", inputs, &out, move |dy, wants| {
        let saved = Saved { q: &memory[0], k: &memory[1], v: &memory[2], y: &y, log_sums: &log_sums };
        Ok(wanted(sizes.backward(&of(dy)?, saved)?, &shapes, wants))
    });
    Ok(out)
}

fn wanted(gradients: [Buffer; 3], shapes: &[Vec<usize>; 3], wants: [bool; 3]) -> [Option<Tensor>; 3] {
    std::array::from_fn(|i| wants[i].then(|| Tensor::on_gpu(gradients[i].clone(), &shapes[i])))
}
