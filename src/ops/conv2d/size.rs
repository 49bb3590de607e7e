//! The sizes of a convolution.

use super::Padding;
use crate::device::cpu::patches::{Order, Patches};
use crate::device::gpu::conv2d::Conv2d as Launch;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The sizes of one convolution, checked.
#[derive(Clone, Copy)]
pub struct Size {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c_in: usize,
    pub ho: usize,
    pub wo: usize,
    pub c_out: usize,
    pub kh: usize,
    pub kw: usize,
    pub stride: usize,
    pub padding: Padding,
}

impl Size {
    pub fn of(
        op: &'static str,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        stride: usize,
        padding: Padding,
    ) -> Result<Self> {
        let [n, h, w, c_in] = x.dims(op)?;
        let [c_out, kh, kw, weight_c_in] = weight.dims(op)?;
        if c_in != weight_c_in {
            let (x, weight) = (x.shape(), weight.shape());
            return Err(Error::shape(op, format!("x {x:?} and weight {weight:?} differ in channels")));
        }
        if let Some(bias) = bias
            && bias.shape() != [c_out]
        {
            let (bias, weight) = (bias.shape(), weight.shape());
            return Err(Error::shape(op, format!("a bias of shape {bias:?} does not fit a weight {weight:?}")));
        }
        let padded = (h + padding.top + padding.bottom, w + padding.left + padding.right);
        if stride == 0 || kh == 0 || kw == 0 || padded.0 < kh || padded.1 < kw {
            return Err(Error::shape(
                op,
                format!(
                    "no output: a kernel of {kh} x {kw} with stride {stride} over {} x {} with padding",
                    padded.0, padded.1
                ),
            ));
        }
        let (ho, wo) = ((padded.0 - kh) / stride + 1, (padded.1 - kw) / stride + 1);
        Ok(Self { n, h, w, c_in, ho, wo, c_out, kh, kw, stride, padding })
    }

    pub fn launch(&self) -> Launch {
        let Self { n, h, w, c_in, c_out, kh, kw, .. } = *self;
        Launch { n, h, w, c_in, c_out, kh, kw, stride: self.stride, padding: self.padding, doubled: false }
    }

    /// Whether each output pixel reads one pixel of `x`: a linear layer over the channels.
    pub fn pointwise(&self) -> bool {
        self.kh * self.kw == 1 && self.stride == 1 && self.padding == Padding::all(0)
    }

    /// The part of `x` that each output pixel reads.
    pub fn patches<'a, T>(&self, x: &'a [T]) -> Patches<'a, T> {
        Patches {
            data: x,
            size: [self.h, self.w, self.c_in],
            kernel: [self.kh, self.kw],
            pixels: [self.n, self.ho, self.wo],
            step: self.stride,
            offset: [-(self.padding.top as isize), -(self.padding.left as isize)],
            order: Order::TapsFirst,
        }
    }
}
