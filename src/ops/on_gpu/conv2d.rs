//! Convolution.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::conv2d::{Added, Conv2d};
use crate::device::gpu::sums::sum_rows;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::conv2d` of the sizes in `conv`, which fit the tensors.
pub fn conv2d(tape: &Tape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv2d) -> Result<Tensor> {
    let Conv2d { n, c_out, .. } = conv;
    let [ho, wo] = conv.output()?;
    let (x_memory, w) = (of(x)?, of(weight)?);
    let bias_memory = bias.map(of).transpose()?;
    let added = Added {
        bias: bias_memory.as_ref(),
        ..Added::default()
    };
    let y = Tensor::on_gpu(conv.forward(&x_memory, &w, added)?, &[n, ho, wo, c_out]);
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let wants: Vec<bool> = inputs.iter().map(|t| tape.wants(t)).collect();
    // Only the gradient of the weight reads `x`: a frozen layer does not keep it.
    let saved = wants[1].then_some(x_memory);
    let (x_shape, w_shape) = (x.shape().to_vec(), weight.shape().to_vec());
    tape.record("conv2d", &inputs, &y, move |dy| {
        let dy = of(dy)?;
        let mut gradients = vec![None; wants.len()];
        if wants[0] {
            gradients[0] = Some(Tensor::on_gpu(conv.dgrad(&dy, &w)?, &x_shape));
        }
        if let Some(x) = &saved {
            gradients[1] = Some(Tensor::on_gpu(conv.wgrad(&dy, x)?, &w_shape));
        }
        if wants.get(2) == Some(&true) {
            gradients[2] = Some(Tensor::on_gpu(sum_rows(&dy, n * ho * wo, c_out)?, &[c_out]));
        }
        Ok(gradients)
    });
    Ok(y)
}
