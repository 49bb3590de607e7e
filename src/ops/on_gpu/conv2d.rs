//! Convolution.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::conv2d::{Added, Conv2d};
use crate::device::gpu::sums::sum_rows;
use crate::error::Result;
use crate::ops::Plus;
use crate::ops::elementwise::sum_pixels_on_gpu;
use crate::tensor::Tensor;

/// As `ops::conv2d_plus` of the sizes in `conv`, which fit the tensors.
pub fn conv2d(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    plus: Plus<'_>,
    conv: Conv2d,
) -> Result<Tensor> {
    let Conv2d { n, c_out, .. } = conv;
    let [ho, wo] = conv.output()?;
    let (x_memory, w) = (of(x)?, of(weight)?);
    let bias_memory = bias.map(of).transpose()?;
    let (t, onto) = (plus.t.map(of).transpose()?, plus.onto.map(of).transpose()?);
    let added = Added { bias: bias_memory.as_ref(), t: t.as_ref(), residual: onto.as_ref() };
    let y = Tensor::on_gpu(conv.forward(&x_memory, &w, added)?, &[n, ho, wo, c_out]);
    // Only the gradient of the weight reads `x`: a frozen layer does not keep it.
    let saved = tape.wants(weight).then_some(x_memory);
    let (x_shape, w_shape) = (x.shape().to_vec(), weight.shape().to_vec());
    let inputs = [Some(x), Some(weight), bias, plus.t, plus.onto];
    tape.record("conv2d", inputs, &y, move |upper, [wants_x, _, wants_bias, wants_t, wants_onto]| {
        let dy = of(upper)?;
        let mut gradients = [const { None }; 5];
        if wants_x {
            gradients[0] = Some(Tensor::on_gpu(conv.dgrad(&dy, &w)?, &x_shape));
        }
        if let Some(x) = &saved {
            gradients[1] = Some(Tensor::on_gpu(conv.wgrad(&dy, x)?, &w_shape));
        }
        if wants_bias {
            gradients[2] = Some(Tensor::on_gpu(sum_rows(&dy, n * ho * wo, c_out)?, &[c_out]));
        }
        if wants_t {
            gradients[3] = Some(sum_pixels_on_gpu(upper, [n, ho * wo, c_out])?);
        }
        gradients[4] = wants_onto.then(|| upper.clone());
        Ok(gradients)
    });
    Ok(y)
}
