//! LayerNorm.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::layer_norm::LayerNorm;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::layer_norm` of the sizes in `norm`, which fit the tensors.
pub fn layer_norm(tape: &Tape, x: &Tensor, weight: &Tensor, bias: &Tensor, norm: LayerNorm) -> Result<Tensor> {
    let (x_memory, w) = (of(x)?, of(weight)?);
    let (y, statistics) = norm.forward(&x_memory, &w, &of(bias)?)?;
    let y = Tensor::on_gpu(y, x.shape());
    let shape = x.shape().to_vec();
    tape.record("layer_norm", [x, weight, bias], &y, move |dy, wants| {
        let dy = of(dy)?;
        let mut gradients = [None, None, None];
        if wants[0] {
            gradients[0] = Some(Tensor::on_gpu(norm.backward(&dy, &x_memory, &w, &statistics)?, &shape));
        }
        if wants[1] || wants[2] {
            let both = norm.backward_parameters(&dy, &x_memory, &statistics)?;
            for (i, gradient) in (1..).zip(both).filter(|&(i, _)| wants[i]) {
                gradients[i] = Some(Tensor::on_gpu(gradient, &[norm.c]));
            }
        }
        Ok(gradients)
    });
    Ok(y)
}
