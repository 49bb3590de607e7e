//! The sizes of a convolution, which ops, kernels and NVIDIA's libraries agree on.

use crate::error::{Error, Result};

const OP: &str = "conv2d";

/// Zeros added on each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    pub top: usize,
    pub left: usize,
    pub bottom: usize,
    pub right: usize,
}

impl Padding {
    pub const fn all(p: usize) -> Self {
        Self { top: p, left: p, bottom: p, right: p }
    }
}

/// A convolution of `x` `[n, h, w, c_in]` with weights `[c_out, kh, kw, c_in]` to `[n, ho, wo, c_out]`.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape {
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

impl ConvShape {
    /// From the shapes of `x` and of the weights.
    ///
    /// # Errors
    /// [`Error::Shape`] where the channels differ, or the kernel is larger than the padded image.
    pub fn new(x: [usize; 4], weight: [usize; 4], stride: usize, padding: Padding) -> Result<Self> {
        let ([n, h, w, c_in], [c_out, kh, kw, weight_c_in]) = (x, weight);
        if c_in != weight_c_in {
            return Err(Error::shape(OP, format!("x {x:?} and weight {weight:?} differ in channels")));
        }
        let (height, width) = (h + padding.top + padding.bottom, w + padding.left + padding.right);
        if stride == 0 || kh == 0 || kw == 0 || height < kh || width < kw {
            let message =
                format!("no output: a kernel of {kh} x {kw} with stride {stride} over {height} x {width} with padding");
            return Err(Error::shape(OP, message));
        }
        let (ho, wo) = ((height - kh) / stride + 1, (width - kw) / stride + 1);
        Ok(Self { n, h, w, c_in, ho, wo, c_out, kh, kw, stride, padding })
    }

    /// `[n, h, w, c_in]`.
    pub fn x(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c_in]
    }

    /// `[c_out, kh, kw, c_in]`.
    pub fn weight(&self) -> [usize; 4] {
        [self.c_out, self.kh, self.kw, self.c_in]
    }

    /// `[n, ho, wo, c_out]`.
    pub fn y(&self) -> [usize; 4] {
        [self.n, self.ho, self.wo, self.c_out]
    }

    /// Pixels of the result, of all images.
    pub fn pixels(&self) -> usize {
        self.n * self.ho * self.wo
    }

    /// Whether each output pixel reads one pixel of `x`: a linear layer over the channels.
    pub fn pointwise(&self) -> bool {
        self.kh * self.kw == 1 && self.stride == 1 && self.padding == Padding::all(0)
    }
}
