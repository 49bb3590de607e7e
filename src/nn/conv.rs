//! Convolutions and their optional LoRA.

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::{Layer, LoraWeights, Param, Visitor, Weights};
use crate::ops::{self, Epilogue, Padding};
use crate::tensor::Tensor;

#[derive(Clone)]
pub struct Conv2d {
    pub name: String,
    /// `[c_out, kh, kw, c_in]`.
    pub weight: Param,
    /// `[c_out]`.
    pub bias: Param,
    pub stride: usize,
    pub padding: Padding,
    pub lora: Option<LoraWeights>,
}

impl Conv2d {
    /// A square kernel with the padding that keeps the size at stride 1.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming a weight that is missing or has another shape.
    pub fn load(w: &Weights, c_in: usize, c_out: usize, kernel: usize) -> Result<Self> {
        Self::strided(w, c_in, c_out, kernel, 1, Padding::all(kernel / 2))
    }

    /// A square kernel with any stride and padding.
    ///
    /// # Errors
    /// As [`Conv2d::load`].
    pub fn strided(
        w: &Weights,
        c_in: usize,
        c_out: usize,
        kernel: usize,
        stride: usize,
        padding: Padding,
    ) -> Result<Self> {
        Ok(Self {
            name: w.name().into(),
            weight: w.kernel("weight", c_out, c_in, kernel)?,
            bias: w.vector("bias", c_out)?,
            stride,
            padding,
            lora: None,
        })
    }

    /// `[n, h, w, c_in]` -> `[n, ho, wo, c_out]`.
    ///
    /// # Errors
    /// As [`ops::conv2d`].
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        self.forward_epilogue(tape, x, Epilogue::default())
    }

    /// [`Conv2d::forward`] and what is added to it.
    ///
    /// # Errors
    /// As [`ops::conv2d_epilogue`].
    pub fn forward_epilogue(&self, tape: &Tape, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Tensor> {
        let (stride, padding) = (self.stride, self.padding);
        let (weight, bias) = (self.weight.get(), self.bias.get());
        let Some(branch) = &self.lora else {
            return ops::conv2d_epilogue(tape, x, &weight, Some(&bias), stride, padding, epilogue);
        };
        let LoraWeights { a, b, scale, magnitude, .. } = branch;
        // The LoRA first, with what else is added: on a GPU the layer's own convolution then adds all of it before its
        // result is rounded.
        let h = ops::conv2d(tape, x, &a.get(), None, stride, padding)?; // [n, ho, wo, r]
        let h = if *scale == 1.0 { h } else { ops::scale(tape, &h, *scale)? };
        if let Some(magnitude) = magnitude {
            let lora = ops::linear(tape, &h, &b.get(), None)?;
            let both = Epilogue { channel_bias: None, residual: Some(&lora) };
            let z = ops::conv2d_epilogue(tape, x, &weight, None, stride, padding, both)?;
            let y = branch.decomposed(tape, &z, &weight, magnitude, Some(&bias), epilogue.residual)?;
            return match epilogue.channel_bias {
                Some(channel_bias) => ops::add_channel_bias(tape, &y, channel_bias),
                None => Ok(y),
            };
        }
        let lora = match epilogue.residual {
            Some(residual) => ops::linear_residual(tape, residual, &h, &b.get(), None, None)?,
            None => ops::linear(tape, &h, &b.get(), None)?,
        };
        let epilogue = Epilogue { residual: Some(&lora), ..epilogue };
        ops::conv2d_epilogue(tape, x, &weight, Some(&bias), stride, padding, epilogue)
    }

    /// [`Conv2d::forward`] of `x` `[n, h, w, c_in]` upsampled to `height` and `width`.
    ///
    /// # Errors
    /// As [`ops::upsample_conv2d`].
    pub fn forward_upsampled(&self, tape: &Tape, x: &Tensor, [height, width]: [usize; 2]) -> Result<Tensor> {
        let [_, h, w, _] = x.dims("Conv2d")?;
        if self.lora.is_none()
            && self.stride == 1
            && self.padding == Padding::all(1)
            && [height, width] == [2 * h, 2 * w]
        {
            return ops::upsample_conv2d(tape, x, &self.weight.get(), Some(&self.bias.get()));
        }
        self.forward(tape, &ops::upsample_nearest(tape, x, height, width)?)
    }

    pub(super) fn visit(&mut self, f: &mut Visitor) {
        f(Layer::Conv(self));
    }
}
